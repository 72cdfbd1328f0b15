"""Equal names for MySQL, texts that it cannot store, and modes in which it changes them."""

from __future__ import annotations

import logging
import math
import secrets
import string
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import RunTag
from sqlalchemy import Engine

from mlflow_wandb_plugin.core.model import Series
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.targets.mlflow.client import RefusedError, RefusedNamesError, translated
from mlflow_wandb_plugin.targets.mlflow.sql.bulk_points import SqlBulk, open_bulk
from mlflow_wandb_plugin.targets.mlflow.sql.sql_client import sql_client
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.targets.mlflow.on_mysql import line, new_run, rows
from tests.targets.mlflow.writing import end, run_info

STRICT = "STRICT_ALL_TABLES"
COLLATION_CHARSET_MISMATCH = 1253
"""An error number of MySQL's."""


@pytest.fixture
def quiet() -> Iterator[None]:
    """Silence the tracebacks that MLflow logs when it refuses something."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("together", [True, False])
def test_names_that_the_collation_takes_for_one(
    client: MlflowClient, bulk: SqlBulk, mysql_engine: Engine, together: bool
) -> None:
    """The first of two equal names is kept; the second one is refused, and the rest is written."""
    run_id = new_run(client)
    blocks = [line("loss", 2), line("a", 2), line("Loss", 3)]
    if not together:
        bulk.write(run_id, blocks[:2])
        del blocks[:2]
    with pytest.raises(RefusedNamesError, match="'Loss'") as caught:
        bulk.write(run_id, blocks)
    assert caught.value.names == {"Loss"}
    assert rows(mysql_engine, run_id) == [
        f"('{name}', {at}.0, {at}, {at}, 0)" for name in ("a", "loss") for at in (0, 1)
    ]
    assert client.get_run(run_id).data.metrics == {"a": 1.0, "loss": 1.0}


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("many", [False, True])
def test_points_under_such_names_are_counted_whichever_way(
    mysql: str, client: MlflowClient, mysql_engine: Engine, many: bool
) -> None:
    """The points and losses are the same in bulk and with log_batch."""

    def carry(path: Any) -> Any:
        run = run_info(run_id=f"alike-{path}-{many}")
        target = MlflowTarget(mysql, TargetOptions(write_path=path))
        if many and isinstance(target._bulk, SqlBulk):
            # Too many for one transaction with the position.
            target._bulk._rows_at_once = 2
        writer = target.open(run, "backfill")
        for name in ("loss", "a", "Loss"):
            writer.append(Series((name,), [0, 1, 2], [5, 6, 7], [1.0, math.nan, 3.0]))
        end(writer, run)
        writer.close()
        tables = [
            rows(mysql_engine, writer.run_id, table) for table in ("metrics", "latest_metrics")
        ]
        return writer.losses, tables

    losses, tables = carry("bulk")
    assert losses == {"metric_refused": 3}
    assert [len(table) for table in tables] == [6, 2]
    assert carry("api") == (losses, tables)


def test_tags_that_the_collation_takes_for_one_are_all_kept(
    mysql: str, client: MlflowClient, mysql_engine: Engine
) -> None:
    """W&B's tags are one tag of MLflow's, so their names cannot collide."""
    run = run_info(run_id="alike-tags", tags=("Best", "best", "x"))
    writer = MlflowTarget(mysql).open(run, "backfill")
    end(writer, run)
    writer.close()
    assert writer.losses == {}
    tags = client.get_run(writer.run_id).data.tags
    assert tags["wandb.tags"] == '["Best", "best", "x"]'
    assert tags["mlflow.wandb.state"] == "complete"


@pytest.fixture
def narrow(mysql: str, mysql_engine: Engine, fresh_store: str) -> Iterator[str]:
    """A Latin-1 database on a server that is not strict."""
    # MLflow remembers of each URI that its tables are made.
    name = f"narrow_{secrets.token_hex(4)}"
    with mysql_engine.begin() as connection:
        mode = connection.exec_driver_sql("SELECT @@GLOBAL.sql_mode").scalar()
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET latin1")
        connection.exec_driver_sql("SET GLOBAL sql_mode = ''")
    uri = f"{mysql.rpartition('/')[0]}/{name}"
    try:
        _make_tables(uri)
        yield uri
    finally:
        with mysql_engine.begin() as connection:
            connection.exec_driver_sql("SET GLOBAL sql_mode = %s", (mode,))
            connection.exec_driver_sql(f"DROP DATABASE {name}")


def _make_tables(uri: str) -> None:
    """Have MLflow make its tables; 3.18 names a collation of utf8mb4, which latin1 lacks."""
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except sqlalchemy.exc.OperationalError as error:
        if getattr(error.orig, "args", ())[:1] != (COLLATION_CHARSET_MISMATCH,):
            raise
        pytest.skip(f"MLflow {mlflow.__version__} cannot make its tables in a database of latin1")


def test_no_text_is_bent_where_the_server_is_lax(narrow: str) -> None:
    """A name that the database cannot store is refused with all of its points, and the connection
    gets its mode back."""
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
    mysql: str, narrow: str, mysql_engine: Engine, path: Any
) -> None:
    """Only points, params and tags with characters that the database lacks are left out, on each
    write path, and the run is finished."""
    with mysql_engine.begin() as connection:
        connection.exec_driver_sql(f"SET GLOBAL sql_mode = '{STRICT}'")
    # The connection over which MLflow makes a database's first experiment stays lax.
    MlflowClient(narrow)._tracking_client.store.engine.dispose()
    target = MlflowTarget(narrow, TargetOptions(write_path=path), backoff=Backoff(3))
    run = run_info(run_id="x", config={"損": 1, "é": 2}, first_config={("損",): 1, ("é",): 2})
    writer = target.open(run, "backfill")
    writer.append(Series(("損失",), [0, 1], [5, 6], [1.0, 2.0]))
    writer.append(Series(("é",), [0, 1], [5, 6], [1.0, 2.0]))
    end(writer, run)
    writer.close()
    assert writer.losses == {"metric_refused": 2, "param_refused": 1}
    written = target._client.mlflow.get_run(writer.run_id).data
    assert (written.metrics, written.params) == ({"é": 2.0}, {"é": "2"})
    assert written.tags["mlflow.wandb.state"] == "complete"
    target._client.mlflow._tracking_client.store.engine.dispose()


def test_statements_fit_the_servers_packets(
    mysql: str, mysql_engine: Engine, fresh_store: str
) -> None:
    """Statements are not longer than the server accepts."""
    with mysql_engine.begin() as connection:
        before = connection.exec_driver_sql("SELECT @@GLOBAL.max_allowed_packet").scalar()
        connection.exec_driver_sql("SET GLOBAL max_allowed_packet = 4096")
    client = MlflowClient(mysql)
    bulk = open_bulk(client)
    try:
        # A connection keeps the limit that it began with.
        bulk.transactions.engine.dispose()
        run_id, names = new_run(client), ["ü" * 249 + letter for letter in string.ascii_lowercase]
        bulk.write(run_id, [*(line(name, 2) for name in names), line("m", 2000)])
        found = rows(mysql_engine, run_id)
        assert len(found) == 26 * 2 + 2000
        assert [sum(name in row for row in found) for name in names] == [2] * 26
    finally:
        with mysql_engine.begin() as connection:
            connection.exec_driver_sql("SET GLOBAL max_allowed_packet = %s", (before,))
        bulk.transactions.engine.dispose()


def test_names_are_text_and_nothing_else(
    client: MlflowClient, bulk: SqlBulk, mysql_engine: Engine
) -> None:
    """Quotes, backslashes, percent signs and characters of four bytes are stored unchanged."""
    run_id, names = new_run(client), ["a'b", 'c"d', "e\\", "%s %", "𝒜", "); DROP TABLE x; --", "`"]
    bulk.write(run_id, [line(name, 2) for name in names])
    with mysql_engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT `key` FROM latest_metrics WHERE run_uuid = %s", (run_id,)
        )
        assert {name for (name,) in found} == set(names)
    assert len(rows(mysql_engine, run_id)) == 2 * len(names)


def test_a_tag_is_replaced_not_doubled(
    client: MlflowClient, mysql_engine: Engine, bulk: SqlBulk
) -> None:
    """A tag is replaced, and one with an equal name in the collation is refused."""
    sql = sql_client(client, bulk.transactions)
    assert sql is not None
    run_id = new_run(client)
    for value in ("old", "new"):
        sql.log_batch(run_id, tags=[RunTag("key", value), RunTag("other", value)])
    with pytest.raises(RefusedError, match="'KEY'"):
        translated(sql.log_batch, run_id, tags=[RunTag("KEY", "1"), RunTag("other", "2")])
    assert rows(mysql_engine, run_id, "tags") == ["('key', 'new')", "('other', 'new')"]
