"""The tables of MLflow that batches are written to, in a SQLite file, with two runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine

TABLES = (
    "experiments (experiment_id INTEGER PRIMARY KEY, workspace TEXT)",
    "runs (run_uuid TEXT PRIMARY KEY, lifecycle_stage TEXT, experiment_id INTEGER)",
    "metrics (key TEXT, value REAL, timestamp INTEGER, run_uuid TEXT, step INTEGER, "
    "is_nan BOOLEAN, PRIMARY KEY (key, timestamp, step, run_uuid, value, is_nan))",
    "latest_metrics (key TEXT, value REAL, timestamp INTEGER, step INTEGER, is_nan BOOLEAN, "
    "run_uuid TEXT, PRIMARY KEY (key, run_uuid))",
    "params (key TEXT, value TEXT, run_uuid TEXT, PRIMARY KEY (key, run_uuid))",
    "tags (key TEXT, value TEXT, run_uuid TEXT, PRIMARY KEY (key, run_uuid))",
)


def rows(engine: Engine, table: str, columns: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT {columns} FROM {table}")
        return sorted(tuple(row) for row in found)


def points_in(engine: Engine, table: str = "metrics") -> list[tuple[Any, ...]]:
    return rows(engine, table, "run_uuid, key, step, timestamp, value, is_nan")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'tables.db'}")
    with made.begin() as connection:
        for table in TABLES:
            connection.exec_driver_sql(f"CREATE TABLE {table}")
        connection.exec_driver_sql("INSERT INTO experiments VALUES (1, 'home')")
        for run, stage in (("r", "active"), ("s", "active"), ("gone", "deleted")):
            connection.exec_driver_sql("INSERT INTO runs VALUES (?, ?, 1)", (run, stage))
    yield made
    made.dispose()
