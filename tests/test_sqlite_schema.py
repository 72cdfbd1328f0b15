"""MLflow's tables in a new or old SQLite file, whoever comes first and whatever is killed."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mlflow_wandb_plugin.sqlite_schema import create_tables, database_file, ensure_tables
from tests.support.environment import isolated
from tests.support.mlflow_state import read_runs

OLD_REVISION = "2d6e25af4d3e"
"""A schema of MLflow 2: it lacks tables of MLflow 3."""

LOG = """
import sys
import mlflow
from mlflow_wandb_plugin.sqlite_schema import ensure_tables

ensure_tables(sys.argv[1])
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("first")
with mlflow.start_run(run_name=sys.argv[2]):
    mlflow.log_metric("loss", 0.5)
"""

KILLED = """
import os, signal, sys
from mlflow_wandb_plugin import sqlite_schema

left = [int(sys.argv[2])]
real = sqlite_schema._copy_rows

def copy_rows(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)

sqlite_schema._copy_rows = copy_rows
sqlite_schema.ensure_tables(sys.argv[1])
"""


def content(path: Path) -> set[tuple[str, str, str]]:
    """Type, name and the sorted words of each definition: Alembic's order differs by process."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    return {
        (kind, name, " ".join(sorted(re.findall(r"\w+", sql or "")))) for kind, name, sql in rows
    }


def test_function_of_mlflow_is_known() -> None:
    """The installed MLflow has the private function that creates its tables."""
    assert create_tables() is not None


@pytest.mark.slow
def test_several_first_processes_all_deliver(tmp_path: Path) -> None:
    """Four processes that open a new file at once leave four runs and MLflow's own schema."""
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    env = isolated(tmp_path / "env")
    processes = [
        subprocess.Popen([sys.executable, "-c", LOG, uri, name], env=env, cwd=tmp_path)
        for name in "abcd"
    ]
    assert [process.wait(timeout=240) for process in processes] == [0, 0, 0, 0]
    with closing(sqlite3.connect(tmp_path / "new.db")) as database:
        assert set(database.execute("SELECT name FROM runs")) == {(name,) for name in "abcd"}


def test_schema_is_the_one_that_mlflow_creates(tmp_path: Path, empty_store: Path) -> None:
    """Tables, indexes, constraints and the schema's version are MLflow's own."""
    ensure_tables(f"sqlite:///{tmp_path / 'new.db'}")
    assert content(tmp_path / "new.db") == content(empty_store)
    with (
        closing(sqlite3.connect(tmp_path / "new.db")) as ours,
        closing(sqlite3.connect(empty_store)) as theirs,
    ):
        version = "SELECT version_num FROM alembic_version"
        assert ours.execute(version).fetchall() == theirs.execute(version).fetchall()


@pytest.mark.slow
@pytest.mark.parametrize("tables", [0, 30])
def test_process_killed_while_it_creates_tables_leaves_nothing(
    tables: int, tmp_path: Path, empty_store: Path
) -> None:
    """Killed after some tables were copied: the file has none, and the next process succeeds."""
    path = tmp_path / "new.db"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, f"sqlite:///{path}", str(tables)],
        env=isolated(tmp_path / "env"), cwd=tmp_path, timeout=240,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert content(path) == set()
    ensure_tables(f"sqlite:///{path}")
    assert content(path) == content(empty_store)


def test_old_database_is_migrated_with_its_rows(tmp_path: Path, empty_store: Path) -> None:
    """A database of MLflow 2 gets today's tables and keeps its experiments."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    path = tmp_path / "old.db"
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    command.upgrade(_get_alembic_config(f"sqlite:///{path}"), OLD_REVISION)
    engine.dispose()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage) "
            "VALUES ('kept', 'file:///x', 'active')"
        )
    ensure_tables(f"sqlite:///{path}")
    assert {name for _, name, _ in content(path)} == {name for _, name, _ in content(empty_store)}
    with closing(sqlite3.connect(path)) as database:
        assert ("kept",) in database.execute("SELECT name FROM experiments").fetchall()


def test_file_that_is_no_database_is_left_to_mlflow(tmp_path: Path) -> None:
    """Nothing is written into it: MLflow reports what is wrong when it opens the file."""
    (tmp_path / "text.db").write_text("text " * 1000)
    ensure_tables(f"sqlite:///{tmp_path / 'text.db'}")
    assert (tmp_path / "text.db").read_text() == "text " * 1000


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite+pysqlite:////a/b.db", "/a/b.db"),
        ("sqlite:///b.db", f"{os.getcwd()}/b.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("postgresql://host/db", None),
        ("http://host", None),
        ("", None),
    ],
)
def test_only_a_sqlite_file_is_prepared(uri: str, file: str | None) -> None:
    """Other databases and servers are left to MLflow."""
    assert database_file(uri) == (None if file is None else Path(file))


def test_database_in_use_is_left_as_it_is(fresh_store: str) -> None:
    """A file that has all tables is not written."""
    path = database_file(fresh_store)
    assert path is not None
    before = path.stat().st_mtime_ns
    ensure_tables(fresh_store)
    assert path.stat().st_mtime_ns == before
    assert read_runs(fresh_store) == {}
