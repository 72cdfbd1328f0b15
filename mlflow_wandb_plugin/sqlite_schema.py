"""Create or migrate the tables of MLflow in a SQLite file, in one transaction under a lock.

MLflow creates them without a lock: several first processes on a new file can leave a half-migrated
database that no process can open again. Here one process builds the tables in a temporary file and
copies them in one transaction: killed at any moment, it leaves the database as it was. All private
API of MLflow that this needs is in this file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.locks import file_lock
from mlflow_wandb_plugin.errors import TargetError, TargetUnavailableError

LOCK_PATIENCE_S = 300.0
"""Seconds to wait for another process that creates or migrates the tables."""
BUSY_S = 20.0
"""Seconds to wait for SQLite's lock, as MLflow waits. Source: mlflow.store.db.utils."""


def ensure_tables(uri: str) -> None:
    """Create or migrate MLflow's tables, if ``uri`` is a SQLite file that lacks some of them.

    Does nothing with an MLflow whose function for it is not known: MLflow then does it.

    Raises:
        TargetError: the tables cannot be created or migrated.
        TargetUnavailableError: another process holds the lock, or SQLite's, for too long.
    """
    path = database_file(uri)
    if path is None:
        return
    create = create_tables()
    if create is None or has_tables(path):
        return
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir(), f"mlflow-wandb-{os.getuid()}-schema-{digest}.lock")
    with file_lock(lock, LOCK_PATIENCE_S) as locked:
        if not locked:
            raise TargetUnavailableError(f"another process creates the tables of {path}: try again")
        if not has_tables(path):
            _create_or_migrate(path, create)


def create_tables() -> Callable[[Any], None] | None:
    """Return MLflow's private function that creates or migrates tables; None if it is unknown."""
    from mlflow.store.db import utils

    return getattr(utils, "_initialize_tables", None)


def database_file(uri: str) -> Path | None:
    """Return the file of a SQLite URI; None for another database or one in memory."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        name = make_url(uri).database
    except ArgumentError:
        return None
    return Path(name).absolute() if name and name != ":memory:" and "?" not in name else None


def is_older(path: Path) -> bool:
    """Return whether a SQLite file has MLflow's tables, but not all that the installed MLflow
    needs: opening it migrates it."""
    return has_tables(path, {"experiments"}) and not has_tables(path)


def all_tables() -> set[str]:
    """Return the names of the tables that the installed MLflow needs."""
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.model_registry.dbmodels import models as _registry  # noqa: F401
    from mlflow.store.tracking.dbmodels import models as _tracking  # noqa: F401

    return set(Base.metadata.tables)


def has_tables(path: Path, names: Collection[str] = ()) -> bool:
    """Return whether a file has the tables ``names``, or all of MLflow's; True for a file that is
    not readable as a database, which MLflow reports."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", BUSY_S, uri=True)) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return set(names or all_tables()) <= {name for (name,) in rows}
    except sqlite3.Error:
        # MLflow, which opens the file next, reports what is wrong with it.
        return True


def _create_or_migrate(path: Path, create: Callable[[Any], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="mlflow-wandb-schema-") as folder,
            closing(sqlite3.connect(path, BUSY_S, isolation_level=None)) as database,
        ):
            # Nobody reads or writes the database until the new tables are committed.
            database.execute("PRAGMA foreign_keys = OFF")
            database.execute("BEGIN EXCLUSIVE")
            built = Path(folder, "built.db")
            if path.stat().st_size:
                shutil.copyfile(path, built)
            _build(built, create)
            _replace_content(database, built)
            database.execute("COMMIT")
    except (OSError, sqlite3.Error) as error:
        if "locked" in str(error):
            raise TargetUnavailableError(f"{path} is in use: {error}") from error
        raise TargetError(f"the tables of {path} cannot be created: {error}") from error


def _build(path: Path, create: Callable[[Any], None]) -> None:
    """Create or migrate the tables in a file that no other process uses."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(f"sqlite:///{path}")
    try:
        create(engine)
    except (MlflowException, SQLAlchemyError) as error:
        raise TargetError(f"MLflow cannot create its tables: {error}") from error
    finally:
        engine.dispose()


def _replace_content(database: sqlite3.Connection, source: Path) -> None:
    """Drop all of ``database`` and copy all of ``source``, inside the open transaction."""
    kept = "name NOT LIKE 'sqlite_%'"
    for kind in ("view", "trigger", "table"):
        names = database.execute(f"SELECT name FROM sqlite_master WHERE type = '{kind}' AND {kept}")
        for (name,) in names.fetchall():
            database.execute(f"DROP {kind} {_quoted(name)}")
    with closing(sqlite3.connect(source)) as built:
        objects = built.execute(
            f"SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND {kept} "
            "ORDER BY type <> 'table'"
        ).fetchall()
        for kind, name, sql in objects:
            database.execute(sql)
            if kind == "table":
                _copy_rows(built, database, name)


def _copy_rows(built: sqlite3.Connection, database: sqlite3.Connection, table: str) -> None:
    # A generated column, which pragma_table_info omits, cannot be inserted.
    names = built.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
    columns = ", ".join(_quoted(name) for (name,) in names)
    places = ", ".join("?" * len(names))
    rows = built.execute(f"SELECT {columns} FROM {_quoted(table)}")
    database.executemany(f"INSERT INTO {_quoted(table)} ({columns}) VALUES ({places})", rows)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
