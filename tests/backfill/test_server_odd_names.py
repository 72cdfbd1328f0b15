"""A project with odd names everywhere, backfilled from a server and killed many times."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.environment import isolated
from tests.support.killing import forker
from tests.support.kills import kills
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import wait_until
from tests.support.wandb_source import source_of
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROJECT = "odd"
KILLS = kills(30)
RUNS = 12
ROWS = 20
START_MS = 1_700_000_000_000
ODD = ("lr@0", "opt(x)", "a b#c", "ü/ß", "..", "x" * 300, "loss[0]", "a_b#c", "d.e", "%s{}", "")
"""Keys of configs and metrics; several of them become one name in MLflow."""


def _row(run: int, step: int) -> dict[str, Any]:
    values = {key: run * 1000 + step + number / 8 for number, key in enumerate(ODD) if key}
    return {"_step": step, "_timestamp": START_MS / 1000 + run * 100 + step, **values}


def _fill(server: WandbServer) -> None:
    for run in range(RUNS):
        server.add_run(
            PROJECT,
            f"run-{run}",
            config={key: f"{key} {run}" for key in ODD if key} | {"n": {"lr@0": run, "o(": [1]}},
            rows=[_row(run, step) for step in range(ROWS)],
            files={"odd (1)/ü#.txt": b"content %d" % run, "output.log": b"a line\n"},
            display_name=f"run <{run}> 'ü' (x)",
            group=f"group@{run % 3}",
            tags=[f"tag@{run}", "a b#c", "a_b#c"],
            created_at=f"2023-11-14T22:{run:02d}:20Z",
            heartbeat_at=f"2023-11-14T23:{run:02d}:20Z",
        )


def _expected_points(run: int) -> dict[str, list[tuple[float, int, int]]]:
    """Points as they were logged, by W&B's key."""
    at = [START_MS + (run * 100 + step) * 1000 for step in range(ROWS)]
    return {
        key: [(run * 1000 + step + number / 8, at[step], step) for step in range(ROWS)]
        for number, key in enumerate(ODD)
        if key
    }


def _check_complete_runs(database: Path) -> None:
    """A run that says complete has all of its points and params."""
    if not database.is_file():
        return
    query = (
        "select i.value, (select count(*) from metrics m where m.run_uuid = i.run_uuid), "
        "(select count(*) from params p where p.run_uuid = i.run_uuid) from tags i join tags s "
        "on i.run_uuid = s.run_uuid where i.key = 'wandb.run_id' "
        "and s.key = 'mlflow.wandb.state' and s.value = 'complete'"
    )
    with closing(sqlite3.connect(database)) as db:
        if not db.execute("select 1 from sqlite_master where name = 'metrics'").fetchall():
            return
        for run_id, points, params in db.execute(query):
            assert (points, params) == ((len(ODD) - 1) * ROWS, len(ODD) - 1 + 2), run_id


@pytest.mark.kills
def test_many_kills_leave_what_an_undisturbed_backfill_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is new: some kills hit the creation of its tables, the others any request."""
    (tmp_path / "calm").mkdir()
    (tmp_path / "killed").mkdir()
    calm, killed = tmp_path / "calm" / "new.db", tmp_path / "killed" / "new.db"
    chance = random.Random(14)
    with WandbServer(tmp_path / "wandb") as server:
        _fill(server)
        with monkeypatch.context() as patch:
            patch.chdir(calm.parent)
            target = MlflowTarget(f"sqlite:///{calm}")
            outcomes = list(backfill(source_of(server, PROJECT), target, Selection()))
        assert [outcome.action for outcome in outcomes] == ["migrated"] * RUNS
        env = isolated(
            tmp_path, WANDB_API_KEY=server.api_key, PYTHONWARNINGS="ignore",
            PYTHONPATH=os.environ.get("PYTHONPATH", ""),
        )  # fmt: skip
        line = f"backfill wandb+{server.url}/tester/{PROJECT} --to sqlite:///{killed} --json"
        with forker(env, killed.parent, tmp_path / "errors.txt") as commands:
            for number in range(KILLS):
                first = number < 6
                moment = _after_requests(server, 1 if first else chance.randint(1, 9))
                pause_s = chance.uniform(0.0, 0.25) if first else 0.0
                assert commands.run(line, _then_sleep(moment, pause_s)) == -9, number
                _check_complete_runs(killed)
            assert commands.run(line) == 0
    _compare(monkeypatch, calm, killed, tmp_path)


def _then_sleep(moment: Callable[[], object], pause_s: float) -> Callable[[], object]:
    """Wait for a moment, and then for seconds: a new database gets its tables after the first
    request, in which the source is looked at."""

    def wait() -> None:
        moment()
        time.sleep(pause_s)

    return wait


def _after_requests(server: WandbServer, count: int) -> Callable[[], object]:
    """Wait until the server got so many requests."""
    before = len(server.requests)
    return lambda: wait_until(lambda: len(server.requests) >= before + count, 240)


def _compare(monkeypatch: pytest.MonkeyPatch, calm: Path, killed: Path, folder: Path) -> None:
    states: list[dict[str, RunState]] = []
    for database in (calm, killed):
        monkeypatch.chdir(database.parent)
        states.append(read_runs(f"sqlite:///{database}", folder / f"read-{database.parent.name}"))
    undisturbed, disturbed = states
    assert disturbed.keys() == undisturbed.keys()
    assert len(disturbed) == RUNS
    for run in range(RUNS):
        state = disturbed[f"run-{run}"]
        assert _without_claim(state) == _without_claim(undisturbed[f"run-{run}"]), run
        wanted = sorted(_expected_points(run).values())
        assert sorted(state.metrics.values()) == wanted, run
        assert json.loads(state.tags["wandb.tags"]) == [f"tag@{run}", "a b#c", "a_b#c"]


def _without_claim(state: RunState) -> dict[str, Any]:
    found = state.comparable()
    found["tags"] = {k: v for k, v in found["tags"].items() if k != "mlflow.wandb.claim"}
    return found
