"""SQLite's driver below SQLAlchemy: for a statement of a few rows, SQLAlchemy needs as much time as
SQLite."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection


def execute(connection: Connection, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
    """Execute a statement on the driver's connection, in the transaction that is open there.

    Raises:
        sqlalchemy.exc.DBAPIError: SQLite refused it, and undid it.
    """
    driver: Any = connection.connection.dbapi_connection
    try:
        found: sqlite3.Cursor = driver.execute(sql, values)
    except sqlite3.Error as error:
        raise _as_sqlalchemy(error, sql, values) from error
    return found


def commit(connection: Connection) -> None:
    """Commit the driver's transaction.

    Raises:
        sqlalchemy.exc.DBAPIError: SQLite refused it; the transaction is still open.
    """
    driver: Any = connection.connection.dbapi_connection
    try:
        driver.commit()
    except sqlite3.Error as error:
        raise _as_sqlalchemy(error, "COMMIT", ()) from error


def _as_sqlalchemy(error: sqlite3.Error, sql: str, values: tuple[Any, ...]) -> BaseException:
    """SQLAlchemy's error of the same name."""
    from sqlalchemy.exc import DBAPIError

    wrapped: BaseException = DBAPIError.instance(sql, values, error, sqlite3.Error)
    return wrapped
