"""``wandb+URI``: which URIs can be mirrored, and which ones a process mirrors."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.store import uris


@pytest.mark.parametrize(
    ("uri", "native"),
    [
        ("wandb+sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("wandb+sqlite+pysqlite:////a/b.db", "sqlite+pysqlite:////a/b.db"),
        ("wandb+postgresql+psycopg2://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
        ("wandb+mysql+pymysql://h/d?x=1", "mysql+pymysql://h/d?x=1"),
        ("wandb+mssql+pyodbc://h/d", "mssql+pyodbc://h/d"),
        ("wandb+http://h:5000", "http://h:5000"),
        ("wandb+https://h/prefix", "https://h/prefix"),
        ("wandb+databricks://", "databricks"),
        ("wandb+databricks://profile", "databricks://profile"),
        ("wandb+file:///runs", "file:///runs"),
        ("fast+sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("fast+postgresql+psycopg2://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
        ("fast+mssql+pyodbc://h/d", "mssql+pyodbc://h/d"),
    ],
)
def test_prefix_is_removed(uri: str, native: str) -> None:
    """The URI without its prefix keeps its driver and query."""
    assert uris.is_prefixed(uri)
    assert uris.native(uri) == native


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("wandb+foo://user:secret@host/db", "one of sqlite"),
        ("wandb+databricks", "wandb+databricks://"),
        ("wandb+", "one of sqlite"),
        ("wandb+mlflow.db", "one of sqlite"),
        ("wandb+wandb+sqlite:///x.db", "one of sqlite"),
        ("fast+http://user:secret@host", "one of sqlite, postgresql, mysql, mssql, as in fast+"),
        ("fast+file:///runs", "fast+sqlite:///"),
        ("fast+databricks://", "fast+sqlite:///"),
        ("fast+wandb+sqlite:///x.db", "fast+sqlite:///"),
        ("wandb+fast+sqlite:///x.db", "wandb+sqlite:///"),
        ("fast+", "fast+sqlite:///"),
    ],
)
def test_uri_without_a_store_is_refused_in_one_line(uri: str, hint: str) -> None:
    """The message has a valid example, and no password."""
    with pytest.raises(UsageError) as caught:
        uris.native(uri)
    message = str(caught.value)
    assert hint in message
    assert "\n" not in message
    assert "secret" not in message


def test_mirrored_stores_are_noted_without_the_password(
    fresh_process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable with hashes passes it to child processes; ``off`` stays off."""
    import os

    one, two = "postgresql://u:secret@h/d", "sqlite:///two.db"
    assert not uris.is_mirrored(one)
    assert not uris.any_mirrored()
    uris.mirror(one)
    uris.mirror(one)
    uris.mirror(two)
    assert uris.is_mirrored(one)
    assert uris.is_mirrored(two)
    assert not uris.is_mirrored("sqlite:///three.db")
    assert os.environ[uris.MIRROR].count(",") == 1
    assert "secret" not in os.environ[uris.MIRROR]
    monkeypatch.setenv(uris.MIRROR, "off")
    uris.mirror(one)
    assert not uris.is_mirrored(one)
    assert not uris.any_mirrored()


def test_prefixes_switch_on_what_they_say(fresh_process: Path) -> None:
    """``fast+`` writes fast, ``wandb+`` mirrors as well; a tracking server is mirrored alone."""
    for uri in ("fast+sqlite:///fast.db", "wandb+sqlite:///both.db", "wandb+http://h"):
        uris.switch_on(uri)
    found = {
        uri: (uris.is_mirrored(uri), uris.is_fast(uri))
        for uri in ("sqlite:///fast.db", "sqlite:///both.db", "http://h", "sqlite:///other.db")
    }
    assert list(found.values()) == [(False, True), (True, True), (True, False), (False, False)]
    assert uris.any_switched_on()


def test_fast_writes_can_be_switched_off(
    fresh_process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``MLFLOW_WANDB_FAST=off`` both prefixes leave the writing to MLflow."""
    monkeypatch.setenv(uris.FAST, "off")
    uris.switch_on("fast+sqlite:///fast.db")
    uris.switch_on("wandb+sqlite:///both.db")
    assert not uris.is_fast("sqlite:///fast.db")
    assert not uris.is_fast("sqlite:///both.db")
    assert uris.is_mirrored("sqlite:///both.db")


def test_a_store_is_outdated_once(fresh_process: Path) -> None:
    """It was built before something was switched on for its URI."""
    uri = "sqlite:///a.db"
    assert not uris.forget_outdated(uri)
    uris.note_built(uri)
    assert not uris.forget_outdated(uri)
    uris.switch_on(f"fast+{uri}")
    assert uris.forget_outdated(uri)
    assert not uris.forget_outdated(uri)
    uris.note_built(uri)
    uris.switch_on(f"wandb+{uri}")
    assert uris.forget_outdated(uri)
