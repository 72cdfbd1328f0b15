"""Read what a target has of a run, with none of the package's code."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from faults.judge import Found, Point
from faults.ledger import KEYS
from tests.support.wandb_state import rows
from tests.wandb_server import WandbServer


def in_mlflow(database: Path, run_id: str) -> Found:
    """A W&B run in the SQLite database of `mlflow server`."""
    uri = f"file:{database}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=60)) as store:
        found = [
            (uuid, status)
            for uuid, status in store.execute(
                "SELECT runs.run_uuid, status FROM runs JOIN tags ON runs.run_uuid = tags.run_uuid "
                "WHERE tags.key = 'wandb.run_id' AND tags.value = ? AND lifecycle_stage = 'active'",
                (run_id,),
            )
        ]
        if not found:
            return Found()
        points, latest, told = _of_mlflow_run(store, found[0][0])
        complete = told.get("mlflow.wandb.state") == "complete"
        return Found(len(found), points, latest, found[0][1], complete, told.get("param", ""))


def _of_mlflow_run(
    store: sqlite3.Connection, uuid: str
) -> tuple[list[Point], dict[str, float], dict[str, str]]:
    """Points, latest values, and tags and params together."""
    points = store.execute(
        "SELECT key, step, value, timestamp FROM metrics WHERE run_uuid = ?", (uuid,)
    ).fetchall()
    latest = store.execute("SELECT key, value FROM latest_metrics WHERE run_uuid = ?", (uuid,))
    tags = store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (uuid,)).fetchall()
    params = store.execute("SELECT key, value FROM params WHERE run_uuid = ?", (uuid,))
    return [point for point in points if point[0] in KEYS], dict(latest), dict([*tags, *params])


def in_wandb(server: WandbServer, run_id: str) -> Found:
    """An MLflow run on the loopback W&B server, by its id."""
    copies = [run for run in server.runs if run.name == run_id]
    if not copies:
        return Found()
    run = copies[0]
    with server.store.lock:
        history = rows(run)
    points = [
        (key, int(row["mlflow_step"]), float(row[key]), int(row["_timestamp"] * 1000))
        for row in history
        for key in KEYS
        if key in row
    ]
    replica = run.values.get("mlflow_wandb_replica")
    complete = isinstance(replica, dict) and replica.get("mlflow.wandb.state") == "complete"
    state = run.state if run.state in ("finished", "running") else "failed"
    return Found(len(copies), points, None, state, complete, str(run.values.get("param", "")))
