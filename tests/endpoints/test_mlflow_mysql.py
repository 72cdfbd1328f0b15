"""What only MySQL and MariaDB do: names that they take for one, lax modes, deadlocks."""

from __future__ import annotations

import logging
import math
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from sqlalchemy import Connection, Engine

from mlflow_wandb_plugin.endpoints.mlflow import MlflowTarget
from mlflow_wandb_plugin.endpoints.mlflow_bulk import Points, SqlBulk, open_bulk
from mlflow_wandb_plugin.endpoints.mlflow_client import RefusedError, RefusedNamesError, translated
from mlflow_wandb_plugin.endpoints.mlflow_sql import sql_client
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.model import Series
from mlflow_wandb_plugin.retry import Backoff
from tests.endpoints.test_mlflow_bulk import CALLS
from tests.endpoints.writing import end, run_info
from tests.support.processes import wait_until


@pytest.fixture
def client(mysql: str, fresh_store: str) -> MlflowClient:
    """On the session's MySQL; what MLflow puts beside a database stays in the test's folder."""
    return MlflowClient(mysql)


@pytest.fixture
def bulk(client: MlflowClient) -> SqlBulk:
    return open_bulk(client)


@pytest.fixture
def engine(mysql: str) -> Iterator[Engine]:
    """Another way into the same database."""
    engine = sqlalchemy.create_engine(mysql)
    yield engine
    engine.dispose()


@pytest.fixture
def quiet() -> Iterator[None]:
    """MLflow logs a traceback for each thing that it refuses."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


STRICT = "STRICT_ALL_TABLES"


def new_run(client: Any) -> str:
    return str(client.create_run("0").info.run_id)


def rows(engine: Engine, run_id: str, table: str = "metrics") -> list[str]:
    """A run's rows as the database holds them: names to the letter, zeros with their signs."""
    columns = "`key`, value" if table == "tags" else "`key`, value, timestamp, step, is_nan"
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            f"SELECT {columns} FROM {table} WHERE run_uuid = %s AND `key` <> 'mlflow.runName'",
            (run_id,),
        )
        return sorted(map(str, found))


def line(name: str, count: int) -> Points:
    """A metric whose step, time and value are the number of its point."""
    return Points(name, [float(number) for number in range(count)], range(count), range(count))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=CALLS, size=st.sampled_from([3, 20_000]))
def test_rows_are_those_of_log_batch(
    client: MlflowClient, engine: Engine, calls: list[Any], size: int
) -> None:
    """Duplicates, NaN, infinities, any order, over several calls: both tables are equal."""
    one, other = new_run(client), new_run(client)
    bulk = open_bulk(client)
    bulk._rows_at_once = size
    for call in calls:
        metrics = [Metric(name, *point) for name, points in call for point in points]
        if metrics:
            client.log_batch(one, metrics=metrics)
            bulk.write(
                other,
                [Points(name, *zip(*points, strict=True)) for name, points in call if points],
            )
    for table in ("metrics", "latest_metrics"):
        assert rows(engine, other, table) == rows(engine, one, table)


def test_bulk_is_taken_by_itself_and_can_be_asked_for(mysql: str, client: MlflowClient) -> None:
    """`auto` and `bulk` write rows, `api` does not."""
    target = MlflowTarget(mysql)
    assert isinstance(target._bulk, SqlBulk)
    target.use_write_path("api")
    assert target._bulk is None
    target.use_write_path("bulk")
    assert isinstance(target._bulk, SqlBulk)
    assert sql_client(client, target._bulk.transactions) is not None


def test_a_schema_that_was_not_tested_is_left_alone(client: MlflowClient, engine: Engine) -> None:
    """As with other databases."""
    with engine.begin() as connection:
        before = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'unknown yet'")
    try:
        with pytest.raises(UsageError, match=r"unknown yet.*--write-path api"):
            open_bulk(client)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = %s", (before,))


# -- beside others ------------------------------------------------------------------------


def test_live_writers_and_bulk_may_meet(client: MlflowClient, bulk: SqlBulk, mysql: str) -> None:
    """Two threads that call log_batch and two that write in bulk and repeat themselves, into one
    run: all points are there once, and the last is the latest."""
    run_id, names = new_run(client), [f"m{number}" for number in range(5)]
    # log_batch gives up if a second writer makes the same row while it recovers from a first.
    client.log_batch(run_id, [Metric(name, 0.0, 0, 0) for name in names])
    errors: list[Exception] = []

    def by_mlflow(offset: int) -> None:
        own = MlflowClient(mysql)
        for step in range(offset, 120, 4):
            own.log_batch(run_id, [Metric(name, step / 7, step, step) for name in names])

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


def test_a_point_that_came_meanwhile_is_seen(
    client: MlflowClient, bulk: SqlBulk, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live writer's newer point, committed since our transaction began, stays the latest, and its
    row is known for the same metric's: nothing is written twice."""
    run_id, inserts = new_run(client), []
    insert = bulk._dialect.insert

    def meanwhile(connection: Connection, run_id: str, part: Any) -> None:
        inserts.append(part)
        client.log_metric(run_id, "m", 0.5, timestamp=1, step=100)
        insert(connection, run_id, part)

    monkeypatch.setattr(bulk._dialect, "insert", meanwhile)
    bulk.write(run_id, [line("m", 3)])
    assert len(inserts) == 1
    assert len(rows(engine, run_id)) == 4
    assert rows(engine, run_id, "latest_metrics") == ["('m', 0.5, 1, 100, 0)"]


def test_the_victim_of_a_deadlock_is_repeated(
    client: MlflowClient, bulk: SqlBulk, engine: Engine
) -> None:
    """Two transactions lock each other's rows; ours is taken back, and comes again by itself."""
    ours, theirs = new_run(client), new_run(client)
    tries: list[int] = []
    touch = "UPDATE runs SET user_id = %s WHERE run_uuid = %s"

    with engine.connect() as other:
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
                wait_until(lambda: waits_for_a_lock(engine), 30, "the other transaction's wait")
                connection.exec_driver_sql(touch, ("us", theirs))
            else:
                crossing.join(30)
                other.commit()
                connection.exec_driver_sql(touch, ("us at last", ours))

        bulk.transactions.run(work)
    assert len(tries) == 2
    assert client.get_run(ours).info.user_id == "us at last"
    assert client.get_run(theirs).info.user_id == "other"


def waits_for_a_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        waiting = connection.exec_driver_sql(
            "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        )
        return waiting.scalar() == 1


def test_a_lost_connection_is_made_anew(
    mysql: str, client: MlflowClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends our connection between two statements: what was under way comes again."""
    monkeypatch.setattr(Backoff, "first_s", 0.01)
    target = MlflowTarget(mysql, backoff=Backoff(60))
    bulk = target._bulk
    assert isinstance(bulk, SqlBulk)
    run_id, lost = new_run(client), []
    upsert = bulk._dialect.upsert_latest

    def losing(connection: Connection, latest: Any) -> None:
        if not lost:
            lost.append(connection.exec_driver_sql("SELECT connection_id()").scalar())
            with engine.connect() as other:
                other.exec_driver_sql(f"KILL {lost[0]}")
        upsert(connection, latest)

    monkeypatch.setattr(bulk._dialect, "upsert_latest", losing)
    target._client.call(bulk.write, run_id, [line("m", 5000)])
    assert len(lost) == 1
    assert len(rows(engine, run_id)) == 5000
    assert rows(engine, run_id, "latest_metrics") == ["('m', 4999.0, 4999, 4999, 0)"]


# -- names, texts and modes ---------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
def test_names_that_the_collation_takes_for_one(
    client: MlflowClient, bulk: SqlBulk, engine: Engine, together: bool
) -> None:
    """The first stays, also where both come at once; the other is refused, not mixed up with it,
    and everything else arrives."""
    run_id = new_run(client)
    blocks = [line("loss", 2), line("a", 2), line("Loss", 3)]
    if not together:
        bulk.write(run_id, blocks[:2])
        del blocks[:2]
    with pytest.raises(RefusedNamesError, match="'Loss'") as caught:
        bulk.write(run_id, blocks)
    assert caught.value.names == {"Loss"}
    assert rows(engine, run_id) == [
        f"('{name}', {at}.0, {at}, {at}, 0)" for name in ("a", "loss") for at in (0, 1)
    ]
    assert client.get_run(run_id).data.metrics == {"a": 1.0, "loss": 1.0}


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("many", [False, True])
def test_points_under_such_names_are_counted_whichever_way(
    mysql: str, client: MlflowClient, engine: Engine, many: bool
) -> None:
    """By rows and by MLflow's calls a run has the same points and the same losses."""

    def carry(path: Any) -> Any:
        run = run_info(run_id=f"alike-{path}-{many}")
        target = MlflowTarget(mysql)
        target.use_write_path(path)
        if many and isinstance(target._bulk, SqlBulk):
            # Too many for one transaction with the position.
            target._bulk._rows_at_once = 2
        writer = target.open(run, "backfill")
        for name in ("loss", "a", "Loss"):
            writer.append(Series((name,), [0, 1, 2], [5, 6, 7], [1.0, math.nan, 3.0]))
        end(writer, run)
        writer.close()
        tables = [rows(engine, writer.run_id, table) for table in ("metrics", "latest_metrics")]
        return writer.losses, tables

    losses, tables = carry("bulk")
    assert losses == {"metric_refused": 3}
    assert [len(table) for table in tables] == [6, 2]
    assert carry("api") == (losses, tables)


def test_tags_that_the_collation_takes_for_one_are_counted(
    mysql: str, client: MlflowClient, engine: Engine
) -> None:
    """MLflow would fail at them for a quarter of a minute, again and again."""
    run = run_info(run_id="alike-tags", tags=("Best", "best", "x"))
    writer = MlflowTarget(mysql).open(run, "backfill")
    end(writer, run)
    writer.close()
    assert writer.losses == {"runtag_refused": 1}
    tags = client.get_run(writer.run_id).data.tags
    assert {key for key in tags if key.startswith("wandb.tag.")} == {
        "wandb.tag.Best",
        "wandb.tag.x",
    }
    assert tags["wandb.sync.state"] == "complete"


@pytest.fixture
def narrow(mysql: str, engine: Engine, fresh_store: str) -> Iterator[str]:
    """A database of which the texts are Latin-1, on a server that takes everything."""
    # MLflow remembers of each URI that its tables are made.
    name = f"narrow_{secrets.token_hex(4)}"
    with engine.begin() as connection:
        mode = connection.exec_driver_sql("SELECT @@GLOBAL.sql_mode").scalar()
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET latin1")
        connection.exec_driver_sql("SET GLOBAL sql_mode = ''")
    try:
        yield f"{mysql.rpartition('/')[0]}/{name}"
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("SET GLOBAL sql_mode = %s", (mode,))
            connection.exec_driver_sql(f"DROP DATABASE {name}")


def test_no_text_is_bent_where_the_server_is_lax(narrow: str) -> None:
    """A name that the database cannot hold is refused, and none of its points is written under
    another; the connection goes back to MLflow with the mode that it had."""
    client = MlflowClient(narrow)
    bulk, run_id = open_bulk(client), new_run(client)
    with pytest.raises(RefusedError, match="Incorrect string"):
        translated(bulk.write, run_id, [line("é", 2), line("損失", 2)])
    bulk.write(run_id, [line("é", 2)])
    engine = bulk.transactions.engine
    assert rows(engine, run_id) == ["('é', 0.0, 0, 0, 0)", "('é', 1.0, 1, 1, 0)"]
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT @@SESSION.sql_mode").scalar() == ""
    engine.dispose()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("path", ["bulk", "api"])
def test_what_the_database_cannot_hold_is_counted(
    mysql: str, narrow: str, engine: Engine, path: Any
) -> None:
    """Points, params and tags in letters that it lacks are left out alone, whichever way and
    whatever the driver calls such an error; the run is carried to its end."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SET GLOBAL sql_mode = '{STRICT}'")
    # The connection over which MLflow makes a database's first experiment stays lax.
    MlflowClient(narrow)._tracking_client.store.engine.dispose()
    target = MlflowTarget(narrow, backoff=Backoff(3))
    target.use_write_path(path)
    run = run_info(run_id="x", config={"損": 1, "é": 2}, first_config={("損",): 1, ("é",): 2})
    writer = target.open(run, "backfill")
    writer.append(Series(("損失",), [0, 1], [5, 6], [1.0, 2.0]))
    writer.append(Series(("é",), [0, 1], [5, 6], [1.0, 2.0]))
    end(writer, run)
    writer.close()
    assert writer.losses == {"metric_refused": 2, "param_refused": 1}
    written = target._client.mlflow.get_run(writer.run_id).data
    assert (written.metrics, written.params) == ({"é": 2.0}, {"é": "2"})
    assert written.tags["wandb.sync.state"] == "complete"
    target._client.mlflow._tracking_client.store.engine.dispose()


def test_statements_fit_the_servers_packets(mysql: str, engine: Engine, fresh_store: str) -> None:
    """Where the server takes short ones only, more of them are sent."""
    with engine.begin() as connection:
        before = connection.exec_driver_sql("SELECT @@GLOBAL.max_allowed_packet").scalar()
        connection.exec_driver_sql("SET GLOBAL max_allowed_packet = 4096")
    client = MlflowClient(mysql)
    bulk = open_bulk(client)
    try:
        # A connection keeps the limit that it began with.
        bulk.transactions.engine.dispose()
        run_id, name = new_run(client), "ü" * 250
        bulk.write(run_id, [line(name, 50), line("m", 2000)])
        found = rows(engine, run_id)
        assert len(found) == 2050
        assert sum(name in row for row in found) == 50
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("SET GLOBAL max_allowed_packet = %s", (before,))
        bulk.transactions.engine.dispose()


def test_names_are_text_and_nothing_else(
    client: MlflowClient, bulk: SqlBulk, engine: Engine
) -> None:
    """Quotes, backslashes, percent signs and letters of four bytes arrive as they are."""
    run_id, names = new_run(client), ["a'b", 'c"d', "e\\", "%s %", "𝒜", "); DROP TABLE x; --", "`"]
    bulk.write(run_id, [line(name, 2) for name in names])
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT `key` FROM latest_metrics WHERE run_uuid = %s", (run_id,)
        )
        assert {name for (name,) in found} == set(names)
    assert len(rows(engine, run_id)) == 2 * len(names)


def test_a_tag_is_replaced_not_doubled(client: MlflowClient, engine: Engine, bulk: SqlBulk) -> None:
    """And one that is alike is not taken for it."""
    sql = sql_client(client, bulk.transactions)
    assert sql is not None
    run_id = new_run(sql)
    for value in ("old", "new"):
        sql.log_batch(run_id, tags=[RunTag("key", value), RunTag("other", value)])
    with pytest.raises(RefusedError, match="'KEY'"):
        translated(sql.log_batch, run_id, tags=[RunTag("KEY", "1"), RunTag("other", "2")])
    assert rows(engine, run_id, "tags") == ["('key', 'new')", "('other', 'new')"]
