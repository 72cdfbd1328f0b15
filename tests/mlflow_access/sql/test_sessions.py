"""The connection with which SQLite is written, and the errors of its driver."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError, OperationalError

from mlflow_wandb_plugin.mlflow_access.sql import sqlite_driver
from mlflow_wandb_plugin.mlflow_access.sql.transactions import SharedTransactions


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = made(tmp_path / "numbers.db")
    yield engine
    engine.dispose()


def made(path: Path, **options: Any) -> Engine:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", **options)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table numbers (number integer primary key)")
    return engine


def put(number: int) -> Any:
    def work(connection: Any) -> int:
        sqlite_driver.execute(connection, "insert into numbers values (?)", (number,))
        return id(connection.connection.dbapi_connection)

    return work


def numbers(path: Path | str | None) -> list[int]:
    reader = sqlite3.connect(str(path))
    found = [number for (number,) in reader.execute("select number from numbers order by number")]
    reader.close()
    return found


def test_one_connection_serves_all_transactions(engine: Engine) -> None:
    """Also those of other threads: SQLite keeps the pages that it has read."""
    transactions = SharedTransactions(engine)
    used = [transactions.run(put(number)) for number in range(3)]
    thread = threading.Thread(target=lambda: used.append(transactions.run(put(3))))
    thread.start()
    thread.join(30)
    assert len(used) == 4
    assert len(set(used)) == 1
    assert numbers(engine.url.database) == [0, 1, 2, 3]


def test_the_pool_keeps_its_size(tmp_path: Path) -> None:
    """A pool of one connection has one for MLflow's own sessions."""
    engine = made(tmp_path / "one.db", pool_size=1, max_overflow=0, pool_timeout=1)
    transactions = SharedTransactions(engine)
    transactions.run(put(1))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("select number from numbers").scalar() == 1
    transactions.run(put(2))
    assert numbers(engine.url.database) == [1, 2]
    engine.dispose()


def test_a_database_that_was_replaced_is_written_after_the_engine_was_disposed_of(
    engine: Engine,
) -> None:
    """As with the connections of the pool: none of the old file is used again."""
    path = Path(str(engine.url.database))
    transactions = SharedTransactions(engine)
    transactions.run(put(1))
    engine.dispose()
    path.unlink()
    made(path).dispose()
    transactions.run(put(2))
    assert numbers(path) == [2]


def test_an_error_leaves_nothing_behind(engine: Engine) -> None:
    """The transaction is rolled back, the lock is free, and the next one works."""
    transactions = SharedTransactions(engine)

    def fail(connection: Any) -> None:
        put(1)(connection)
        raise ZeroDivisionError

    transactions.run(put(0))
    with pytest.raises(ZeroDivisionError):
        transactions.run(fail)
    other = sqlite3.connect(str(engine.url.database), timeout=0, isolation_level=None)
    other.execute("begin immediate")
    other.execute("rollback")
    other.close()
    transactions.run(put(2))
    assert numbers(engine.url.database) == [0, 2]


def test_what_sqlalchemy_has_begun_is_committed_with_the_rest(engine: Engine) -> None:
    """A statement that goes through SQLAlchemy is of the same transaction."""
    transactions = SharedTransactions(engine)

    def both(connection: Any) -> None:
        put(1)(connection)
        connection.exec_driver_sql("insert into numbers values (2)")

    transactions.run(both)
    transactions.run(put(3))
    assert numbers(engine.url.database) == [1, 2, 3]


def test_a_database_in_memory_is_the_one_of_its_pool() -> None:
    """Its only connection is not taken from the pool: the database would end with it."""
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.begin() as connection:
        connection.exec_driver_sql("create table numbers (number integer primary key)")
    transactions = SharedTransactions(engine)
    transactions.run(put(1))
    transactions.run(put(2))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("select count(*) from numbers").scalar() == 2
    engine.dispose()


def test_errors_of_the_driver_are_those_of_sqlalchemy(engine: Engine) -> None:
    """Of the same name, with the driver's own error, for a statement and for a commit."""
    with engine.connect() as connection:
        put(1)(connection)
        with pytest.raises(IntegrityError) as caught:
            put(1)(connection)
        assert isinstance(caught.value.orig, sqlite3.IntegrityError)
        with pytest.raises(OperationalError, match="no such table"):
            sqlite_driver.execute(connection, "insert into letters values (?)", ("a",))
        sqlite_driver.execute(connection, "pragma busy_timeout = 0")
        reader = sqlite3.connect(str(engine.url.database), isolation_level=None)
        reader.execute("begin")
        reader.execute("select * from numbers").fetchall()
        with pytest.raises(OperationalError, match="database is locked"):
            sqlite_driver.commit(connection)
        reader.execute("commit")
        sqlite_driver.commit(connection)
        reader.close()
    assert numbers(engine.url.database) == [1]
