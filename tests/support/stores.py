"""SQLite stores of MLflow: made once, copied for each test (making one takes two seconds)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.mlflow_access.sql.sessions import SqliteSession


def make_template(path: Path) -> Path:
    """An empty MLflow database at ``path``."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{path}", str(path.parent / "template-artifacts"))
    store.engine.dispose()
    return path


def copy_store(template: Path, target: Path) -> str:
    """An empty store of its own; returns its tracking URI."""
    shutil.copyfile(template, target)
    return f"sqlite:///{target}"


def count_commits(patch: pytest.MonkeyPatch) -> list[Any]:
    """A list that gets the connection of each transaction on SQLite that is committed."""
    commits: list[Any] = []
    commit = SqliteSession.commit

    def counted(self: SqliteSession, connection: Any) -> None:
        commit(self, connection)
        commits.append(connection)

    patch.setattr(SqliteSession, "commit", counted)
    return commits
