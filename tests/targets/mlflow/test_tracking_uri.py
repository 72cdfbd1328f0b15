"""A tracking URI that MLflow cannot use is an error of one line, without secrets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetUnavailableError, UsageError
from mlflow_wandb_plugin.targets.mlflow.client import Client


def test_unknown_scheme_is_a_usage_error_without_the_password() -> None:
    """The message names the URI without its password."""
    with pytest.raises(UsageError, match=r"foo://127\.0\.0\.1") as caught:
        Client("foo://user:secret@127.0.0.1/x")
    assert "secret" not in str(caught.value)


def test_missing_database_driver_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the database driver that is not installed."""
    # As if it were not, where it is.
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(UsageError, match="pymysql"):
        Client("mysql+pymysql://user:secret@127.0.0.1:1/x")


def test_folder_that_cannot_be_is_a_usage_error(tmp_path: Path) -> None:
    """A SQLite file in a path that is not a folder is an error at once."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="tracking URI"):
        Client(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_database_that_does_not_answer_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the database is raised as an unavailable target."""
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    (tmp_path / "mlflow.db").write_bytes(b"no database, for now" * 100)
    troubles: list[Exception] = []
    backoff = Backoff(
        patience_s=10,
        wait=lambda _: len(troubles) < 2,
        on_trouble=lambda error, _: troubles.append(error),
    )
    with pytest.raises(TargetUnavailableError, match="not a database"):
        Client(f"sqlite:///{tmp_path}/mlflow.db", backoff)
    assert len(troubles) == 2
