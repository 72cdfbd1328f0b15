"""The rows of several calls in one transaction."""

from __future__ import annotations

from sqlalchemy import Engine

from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.mlflow_access.sql.batches import Batch, BatchWriter
from tests.mlflow_access.sql.tables import points_in, rows


def write(engine: Engine, *batches: Batch) -> list[bool]:
    with engine.begin() as connection:
        return BatchWriter(engine).write(connection, batches)


def test_everything_of_a_batch_is_written(engine: Engine) -> None:
    """Points as rows and as columns, params and tags; the latest point is that of both."""
    points = [("m", 0.5, 7, 1, False, "r"), ("n", 0.25, 7, 1, False, "r")]
    block = Points("m", [0.75, 1.0], [8, 9], [3, 2])
    batch = Batch("r", points, {"p": "1"}, {"t": "a"}, None, [block])
    assert batch.point_count() == 4
    assert write(engine, batch) == [True]
    assert points_in(engine) == [
        ("r", "m", 1, 7, 0.5, 0), ("r", "m", 2, 9, 1.0, 0), ("r", "m", 3, 8, 0.75, 0),
        ("r", "n", 1, 7, 0.25, 0),
    ]  # fmt: skip
    assert points_in(engine, "latest_metrics") == [
        ("r", "m", 3, 8, 0.75, 0), ("r", "n", 1, 7, 0.25, 0),
    ]  # fmt: skip
    assert rows(engine, "params", "run_uuid, key, value") == [("r", "p", "1")]
    assert rows(engine, "tags", "run_uuid, key, value") == [("r", "t", "a")]


def test_the_last_value_of_a_tag_counts(engine: Engine) -> None:
    """Also of one that the run has already; tags of other runs stay theirs."""
    write(engine, Batch("r", tags={"t": "old", "u": "1"}))
    write(
        engine,
        Batch("r", tags={"t": "a"}),
        Batch("s", tags={"t": "x"}),
        Batch("r", tags={"t": "b"}),
    )
    assert rows(engine, "tags", "run_uuid, key, value") == [
        ("r", "t", "b"), ("r", "u", "1"), ("s", "t", "x"),
    ]  # fmt: skip


def test_a_batch_that_changes_a_param_is_left_out(engine: Engine) -> None:
    """Nothing of it is written; a param may be logged again with its value, in any call."""
    assert write(engine, Batch("r", params={"p": "1"})) == [True]
    found = write(
        engine,
        Batch("r", params={"p": "1", "q": "2"}),
        Batch("r", params={"p": "other"}, tags={"t": "a"}),
        Batch("r", params={"q": "3"}, tags={"t": "a"}),
        Batch("s", params={"q": "3"}),
    )
    assert found == [True, False, False, True]
    assert rows(engine, "params", "run_uuid, key, value") == [
        ("r", "p", "1"), ("r", "q", "2"), ("s", "q", "3"),
    ]  # fmt: skip
    assert rows(engine, "tags", "run_uuid, key, value") == []


def test_a_batch_of_a_run_that_is_not_there_is_left_out(engine: Engine) -> None:
    """Nor is one of a deleted run, or of a run in another workspace, written."""
    tags = {"t": "a"}
    batches = [
        Batch("none", tags=tags), Batch("gone", tags=tags), Batch("r", tags=tags, workspace="away"),
        Batch("s", tags=tags, workspace="home"),
    ]  # fmt: skip
    assert write(engine, *batches[:2]) == [False, False]
    assert write(engine, *batches) == [False, False, False, True]
    assert rows(engine, "tags", "run_uuid, key, value") == [("s", "t", "a")]


def test_more_runs_than_one_query_names(engine: Engine) -> None:
    """All of them are found."""
    names = [f"run-{number:04}" for number in range(501)]
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO runs VALUES (?, 'active', 1)", [(name,) for name in names]
        )
    assert write(engine, *(Batch(name, tags={"t": name}) for name in names)) == [True] * 501
    assert rows(engine, "tags", "run_uuid, value") == [(name, name) for name in names]
