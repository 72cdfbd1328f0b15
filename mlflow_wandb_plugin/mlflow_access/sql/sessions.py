"""What a transaction needs of its database: a connection, a beginning, a commit and an end."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.mlflow_access.sql import sqlite_driver

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Pool

BUSY_MS = 20_000
"""How long SQLite waits for the lock of another writer: as long as MLflow waits."""

_READY = "mlflow_wandb_ready"


class Session:
    """The transactions of PostgreSQL, and of a database that needs nothing of its own.

    Attributes:
        one_writer: whether the database lets one transaction write at a time.
    """

    one_writer = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextlib.contextmanager
    def connected(self) -> Iterator[Connection]:
        """A connection for one transaction; what was not committed is rolled back."""
        with self._engine.connect() as connection:
            yield connection

    def begin(self, connection: Connection) -> None:
        """Begin a transaction; SQLAlchemy does it with the first statement."""

    def commit(self, connection: Connection) -> None:
        """Commit the transaction."""
        connection.commit()

    def end(self, connection: Connection) -> None:
        """Leave the connection as it was, after a commit or an error."""


class MySqlSession(Session):
    """Makes the session strict: else MySQL may cut texts and change numbers with a warning only."""

    def begin(self, connection: Connection) -> None:
        connection.exec_driver_sql(
            "SET @mlflow_wandb_mode = @@SESSION.sql_mode, SESSION sql_mode = 'STRICT_ALL_TABLES'"
        )

    def end(self, connection: Connection) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            connection.rollback()
            # The connection goes back to MLflow's pool.
            connection.exec_driver_sql("SET SESSION sql_mode = @mlflow_wandb_mode")
        except SQLAlchemyError:
            connection.invalidate()


class SqliteSession(Session):
    """Locks the database when a transaction begins: what is read must not change. Begins and
    commits without SQLAlchemy.

    The connection of the last transaction serves the next one, with the pages that SQLite keeps in
    memory as long as nobody else writes: of MLflow's pool it would be another one each time. It is
    not counted among those of the pool, and replaced when the engine is disposed of.
    """

    one_writer = True

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._kept: deque[tuple[Pool, Connection]] = deque(maxlen=1)

    @contextlib.contextmanager
    def connected(self) -> Iterator[Connection]:
        from sqlalchemy.pool import QueuePool

        pool = self._engine.pool
        if type(pool) is not QueuePool:
            # It binds connections to threads, or has but one, as for a database in memory.
            with super().connected() as connection:
                yield connection
            return
        connection = self._take(pool)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._kept.append((pool, connection))

    def _take(self, pool: Pool) -> Connection:
        """The connection that was kept, if it is of ``pool``; else a new one."""
        with contextlib.suppress(IndexError):
            kept_of, kept = self._kept.pop()
            if kept_of is pool:
                return kept
            kept.close()
        connection = self._engine.connect()
        connection.detach()
        return connection

    def begin(self, connection: Connection) -> None:
        if not connection.info.get(_READY):
            for setting in (
                f"busy_timeout = {BUSY_MS}",
                "foreign_keys = ON",
                # KiB. The points of one run are spread over the index: a small cache would thrash.
                "cache_size = -65536",
            ):
                sqlite_driver.execute(connection, f"PRAGMA {setting}")
            connection.info[_READY] = True
        sqlite_driver.execute(connection, "BEGIN IMMEDIATE")

    def commit(self, connection: Connection) -> None:
        if connection.in_transaction():
            connection.commit()
        else:
            sqlite_driver.commit(connection)


def session_of(engine: Engine) -> Session:
    """Return the `Session` of an engine's database."""
    kinds = {"sqlite": SqliteSession, "mysql": MySqlSession}
    return kinds.get(engine.dialect.name, Session)(engine)
