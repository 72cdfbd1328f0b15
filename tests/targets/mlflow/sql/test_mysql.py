"""Rows in MySQL and MariaDB are equal to log_batch's, with other writers as well."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric
from sqlalchemy import Connection, Engine

from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.targets.mlflow.sql.bulk_points import Points, SqlBulk, open_bulk
from mlflow_wandb_plugin.targets.mlflow.sql.sql_client import sql_client
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.health_checks import WITH_FIXTURE
from tests.support.mlflow_features import log_batch_beside, loggable
from tests.support.processes import wait_until
from tests.targets.mlflow.on_mysql import line, new_run, rows
from tests.targets.mlflow.sql.test_bulk_points import CALLS
from tests.targets.mlflow.writing import run_info


@settings(max_examples=40, suppress_health_check=WITH_FIXTURE)
@given(calls=CALLS, size=st.sampled_from([3, 20_000]))
def test_rows_are_those_of_log_batch(
    client: MlflowClient, mysql_engine: Engine, calls: list[Any], size: int
) -> None:
    """Both tables are equal for duplicates, NaN, infinities, any order and several calls."""
    one, other = new_run(client), new_run(client)
    bulk = open_bulk(client)
    bulk._rows_at_once = size
    logged = set[tuple[object, ...]]()
    for call in calls:
        metrics = [Metric(name, *point) for name, points in call for point in points]
        if metrics:
            client.log_batch(one, metrics=loggable(metrics, logged))
            bulk.write(
                other, [Points(name, *zip(*points, strict=True)) for name, points in call if points]
            )
    for table in ("metrics", "latest_metrics"):
        assert rows(mysql_engine, other, table) == rows(mysql_engine, one, table)


def test_bulk_is_taken_by_itself_and_can_be_asked_for(mysql: str, client: MlflowClient) -> None:
    """`auto` and `bulk` write rows, `api` does not."""
    assert isinstance(MlflowTarget(mysql)._bulk, SqlBulk)
    assert MlflowTarget(mysql, TargetOptions(write_path="api"))._bulk is None
    target = MlflowTarget(mysql, TargetOptions(write_path="bulk"))
    assert isinstance(target._bulk, SqlBulk)
    assert sql_client(client, target._bulk.transactions) is not None


def test_a_table_of_another_shape_is_left_alone(client: MlflowClient, mysql_engine: Engine) -> None:
    """Another column is an error for `bulk`, as in other databases."""
    with mysql_engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE latest_metrics ADD COLUMN more INTEGER")
    try:
        with pytest.raises(UsageError, match=r"latest_metrics differ: more.*--write-path api"):
            open_bulk(client)
    finally:
        with mysql_engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE latest_metrics DROP COLUMN more")


# -- beside others ------------------------------------------------------------------------


def test_live_writers_and_bulk_may_meet(client: MlflowClient, bulk: SqlBulk, mysql: str) -> None:
    """All points of two threads with log_batch and two in bulk are there once, and the last is the
    latest."""
    run_id, names = new_run(client), [f"m{number}" for number in range(5)]
    # log_batch gives up if a second writer makes the same row while it recovers from a first.
    client.log_batch(run_id, [Metric(name, 0.0, 0, 0) for name in names])
    errors: list[Exception] = []

    def by_mlflow(offset: int) -> None:
        own = MlflowClient(mysql)
        for step in range(offset, 120, 4):
            metrics = [Metric(name, step / 7, step, step) for name in names]
            log_batch_beside(own, run_id, metrics)

    def in_bulk(offset: int) -> None:
        for step in range(offset, 120, 4):
            steps = [step, max(0, step - 4)]
            values = [at / 7 for at in steps]
            bulk.write(run_id, [Points(name, values, steps, steps) for name in reversed(names)])

    def guarded(write: Callable[[int], None], offset: int) -> None:
        try:
            write(offset)
        except Exception as error:
            errors.append(error)

    pairs = [(by_mlflow, 0), (by_mlflow, 1), (in_bulk, 2), (in_bulk, 3)]
    threads = [threading.Thread(target=guarded, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    for name in names:
        history = client.get_metric_history(run_id, name)
        assert sorted((m.step, m.value) for m in history) == [(at, at / 7) for at in range(120)]
    assert client.get_run(run_id).data.metrics == dict.fromkeys(names, 119 / 7)


def test_several_that_create_one_run_are_left_with_one(mysql: str, client: MlflowClient) -> None:
    """Of runs that are created at once, one is kept, although each creator sees a snapshot."""
    info, kept = run_info(run_id="created-at-once"), []
    # Each has looked, and found none.
    looked = threading.Barrier(3, timeout=60)

    def create() -> None:
        target = MlflowTarget(mysql)
        twin = target.find(info)
        looked.wait()
        writer = target.open(info, "backfill", twin)
        kept.append(writer.run_id)
        writer.close()

    threads = [threading.Thread(target=create) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(kept) == 3
    assert len(set(kept)) == 1
    experiment = client.get_run(kept[0]).info.experiment_id
    found = client.search_runs([experiment], "tags.`wandb.run_id` = 'created-at-once'")
    assert [run.info.run_id for run in found] == kept[:1]


def test_a_point_that_came_meanwhile_is_seen(
    client: MlflowClient, bulk: SqlBulk, mysql_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer point of another writer, committed since our transaction began, stays the latest, and
    nothing is written twice."""
    run_id, inserts = new_run(client), []
    insert = bulk._dialect.insert

    def meanwhile(connection: Connection, run_id: str, part: Any) -> None:
        inserts.append(part)
        client.log_metric(run_id, "m", 0.5, timestamp=1, step=100)
        insert(connection, run_id, part)

    monkeypatch.setattr(bulk._dialect, "insert", meanwhile)
    bulk.write(run_id, [line("m", 3)])
    assert len(inserts) == 1
    assert len(rows(mysql_engine, run_id)) == 4
    assert rows(mysql_engine, run_id, "latest_metrics") == ["('m', 0.5, 1, 100, 0)"]


def test_the_victim_of_a_deadlock_is_repeated(
    client: MlflowClient, bulk: SqlBulk, mysql_engine: Engine
) -> None:
    """A transaction that is rolled back in a deadlock is repeated."""
    ours, theirs = new_run(client), new_run(client)
    tries: list[int] = []
    touch = "UPDATE runs SET user_id = %s WHERE run_uuid = %s"

    with mysql_engine.connect() as other:
        # Whoever has changed less makes way: that is to be us.
        for number in range(50):
            other.exec_driver_sql(
                "INSERT INTO tags (`key`, value, run_uuid) VALUES (%s, 'x', %s)",
                (f"t{number}", theirs),
            )
        other.exec_driver_sql(touch, ("other", theirs))
        crossing = threading.Thread(target=other.exec_driver_sql, args=(touch, ("other", ours)))

        def work(connection: Connection) -> None:
            tries.append(1)
            if len(tries) == 1:
                connection.exec_driver_sql(touch, ("us", ours))
                crossing.start()
                wait_until(
                    lambda: waits_for_a_lock(mysql_engine), 30, "the other transaction's wait"
                )
                connection.exec_driver_sql(touch, ("us", theirs))
            else:
                crossing.join(30)
                other.commit()
                connection.exec_driver_sql(touch, ("us at last", ours))

        bulk.transactions.run(work)
    assert len(tries) == 2
    assert client.get_run(ours).info.user_id == "us at last"
    assert client.get_run(theirs).info.user_id == "other"


def waits_for_a_lock(mysql_engine: Engine) -> bool:
    with mysql_engine.connect() as connection:
        waiting = connection.exec_driver_sql(
            "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        )
        return waiting.scalar() == 1


def test_a_lost_connection_is_made_anew(
    mysql: str, client: MlflowClient, mysql_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is repeated when the server closes the connection between two statements."""
    monkeypatch.setattr(Backoff, "first_s", 0.01)
    target = MlflowTarget(mysql, backoff=Backoff(60))
    bulk = target._bulk
    assert isinstance(bulk, SqlBulk)
    run_id, lost = new_run(client), []
    upsert = bulk._dialect.upsert_latest

    def losing(connection: Connection, latest: Any) -> None:
        if not lost:
            lost.append(connection.exec_driver_sql("SELECT connection_id()").scalar())
            with mysql_engine.connect() as other:
                other.exec_driver_sql(f"KILL {lost[0]}")
        upsert(connection, latest)

    monkeypatch.setattr(bulk._dialect, "upsert_latest", losing)
    target._client.call(bulk.write, run_id, [line("m", 5000)])
    assert len(lost) == 1
    assert len(rows(mysql_engine, run_id)) == 5000
    assert rows(mysql_engine, run_id, "latest_metrics") == ["('m', 4999.0, 4999, 4999, 0)"]
