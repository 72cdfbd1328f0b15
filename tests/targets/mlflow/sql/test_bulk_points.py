"""Rows written in bulk are equal to those of MLflow's log_batch."""

from __future__ import annotations

import math
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric

from mlflow_wandb_plugin.core.model import Series
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.errors import TargetError, UsageError
from mlflow_wandb_plugin.targets.mlflow.sql.bulk_points import Points, SqlBulk, open_bulk
from mlflow_wandb_plugin.targets.mlflow.sql.sql_client import SqlClient
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.health_checks import WITH_FIXTURE
from tests.support.mlflow_features import loggable
from tests.support.mlflow_state import read_runs
from tests.targets.mlflow.writing import end, run_info

VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1.7976931348623157e308]),
    st.floats(allow_nan=True, allow_infinity=True),
)
POINT = st.tuples(VALUES, st.integers(0, 3), st.integers(-2, 3))
CALLS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["a", "b/c", "é"]), st.lists(POINT, max_size=8)), max_size=4
    ),
    min_size=1,
    max_size=4,
)


def rows(uri: str, run_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of a run in both tables."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as db:
        return {
            table: sorted(
                db.execute(
                    "select key, value, typeof(value), timestamp, typeof(timestamp), step, "
                    f"typeof(step), is_nan, typeof(is_nan) from {table} where run_uuid = ?",
                    (run_id,),
                )
            )
            for table in ("metrics", "latest_metrics")
        }


@pytest.fixture
def client(fresh_store: str) -> MlflowClient:
    return MlflowClient(fresh_store)


def new_run(client: MlflowClient) -> str:
    return str(client.create_run("0").info.run_id)


@settings(max_examples=60, suppress_health_check=WITH_FIXTURE)
@given(calls=CALLS, small=st.booleans())
def test_rows_are_those_of_log_batch(
    client: MlflowClient, fresh_store: str, calls: list[Any], small: bool
) -> None:
    """Both tables are equal for duplicates, NaN, infinities, any order and several calls."""
    one, other = new_run(client), new_run(client)
    bulk, logged = open_bulk(client), set[tuple[object, ...]]()
    if small:
        bulk._rows_at_once = 3
    for call in calls:
        blocks = [Points(name, *zip(*points, strict=True)) for name, points in call if points]
        metrics = [Metric(name, *point) for name, points in call for point in points]
        if metrics:
            client.log_batch(one, metrics=loggable(metrics, logged))
            bulk.write(other, blocks)
    assert rows(fresh_store, other) == rows(fresh_store, one)


def test_both_ways_may_meet_in_one_run(client: MlflowClient, fresh_store: str) -> None:
    """Points that log_batch and the bulk writer write at the same time are all there once."""
    run_id = new_run(client)
    bulk = open_bulk(client)

    def log() -> None:
        for step in range(0, 60, 2):
            client.log_metric(run_id, "m", step / 7, timestamp=step, step=step)

    live = threading.Thread(target=log)
    live.start()
    for start in range(0, 60, 6):
        steps = list(range(start, start + 6))
        bulk.write(run_id, [Points("m", [step / 7 for step in steps], steps, steps)])
    live.join(60)
    history = client.get_metric_history(run_id, "m")
    assert sorted((m.step, m.value) for m in history) == [(step, step / 7) for step in range(60)]
    assert client.get_run(run_id).data.metrics == {"m": 59 / 7}


def test_no_transaction_takes_long(client: MlflowClient) -> None:
    """The duration of a transaction decides how many points the next one has."""
    bulk = open_bulk(client)
    sizes: list[int] = []
    insert = bulk._dialect.insert

    def counting(connection: Any, run_id: str, part: list[Points]) -> None:
        sizes.append(sum(len(points.values) for points in part))
        insert(connection, run_id, part)

    bulk._dialect.insert = counting  # type: ignore[method-assign]
    steps = list(range(5000))
    bulk.write(new_run(client), [Points(f"m{i}", [0.5] * 5000, steps, steps) for i in range(20)])
    assert sum(sizes) == 100_000
    assert sizes[0] == 20_000
    assert len(sizes) > 1


def test_a_deleted_run_takes_no_points(client: MlflowClient, fresh_store: str) -> None:
    """A deleted run takes no points, as in MLflow."""
    run_id = new_run(client)
    client.delete_run(run_id)
    with pytest.raises(TargetError, match="was deleted"):
        open_bulk(client).write(run_id, [Points("m", [1.0], [0], [0])])
    assert rows(fresh_store, run_id)["metrics"] == []


def altered(uri: str, *statements: str) -> None:
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def test_the_shape_of_the_tables_decides(client: MlflowClient, fresh_store: str) -> None:
    """A schema of another MLflow is written in bulk if its tables have the known shape."""
    altered(
        fresh_store,
        "update alembic_version set version_num = 'from the future'",
        "alter table experiments add column more integer",
    )
    target = MlflowTarget(fresh_store)
    assert isinstance(target._bulk, SqlBulk)
    assert isinstance(target._client.client, SqlClient)
    assert target.write_method.path == "bulk"


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["alter table metrics add column more integer"], "table metrics differ: more"),
        (["drop table latest_metrics"], "latest_metrics cannot be inspected"),
        (
            ["drop table metrics",
             "create table metrics (key varchar, value float, timestamp bigint, step bigint, "
             "is_nan boolean, run_uuid varchar)"],
            "key of the database's table metrics is none",
        ),
        (
            ["alter table latest_metrics drop column step",
             "alter table latest_metrics add column step varchar(9)"],
            "latest_metrics have other types: step",
        ),
    ],
)  # fmt: skip
def test_tables_of_another_shape_are_written_by_mlflow_itself(
    client: MlflowClient, fresh_store: str, statements: list[str], reason: str
) -> None:
    """Another column, type or key is an error for `bulk`; `auto` uses MLflow's calls."""
    altered(fresh_store, *statements)
    with pytest.raises(UsageError, match=rf"{reason}.*: use --write-path api"):
        open_bulk(client)
    target = MlflowTarget(fresh_store)
    assert target._bulk is None
    assert target.write_method.path == "api"
    assert reason in target.write_method.reason


def test_other_tables_of_runs_are_written_by_mlflow_itself(fresh_store: str) -> None:
    """Points go in bulk, runs through MLflow's calls, and that is said."""
    altered(fresh_store, "alter table runs add column more integer")
    target = MlflowTarget(fresh_store)
    assert isinstance(target._bulk, SqlBulk)
    assert not isinstance(target._client.client, SqlClient)
    assert "table runs differ: more" in target.write_method.reason


def test_a_store_without_a_database_has_no_bulk_path(tmp_path: Path) -> None:
    """A tracking server is an error."""
    with pytest.raises(UsageError, match="needs a database"):
        open_bulk(MlflowClient("http://127.0.0.1:9"))


@pytest.fixture(params=["bulk", "api"])
def target(request: pytest.FixtureRequest, fresh_store: str) -> MlflowTarget:
    return MlflowTarget(fresh_store, TargetOptions(write_path=request.param))


def test_a_point_that_mlflow_refuses_is_counted_whichever_way(
    target: MlflowTarget, fresh_store: str
) -> None:
    """Only a point before 1970 is left out."""
    info = run_info()
    writer = target.open(info, "backfill")
    writer.append(Series(("m",), [0, 1, 2], [5, -1, 7], [1.0, 2.0, 3.0]))
    writer.append(Series(("big",), [2**70], [5], [1.0]))
    writer.append(Series(("n",), [0], [5], [1.0]))
    end(writer, info)
    writer.close()
    assert writer.losses == {"metric_refused": 2}
    state = read_runs(fresh_store)["r1"]
    assert state.points("m") == [(0, 1.0), (2, 3.0)]
    assert state.points("n") == [(0, 1.0)]


def test_bulk_is_taken_where_it_can_be(fresh_store: str) -> None:
    """A SQLite store is written in bulk by default."""
    assert isinstance(MlflowTarget(fresh_store)._bulk, SqlBulk)
