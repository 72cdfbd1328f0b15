"""Opening MLflow stores: nothing is created, and what cannot be opened is one line."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.errors import SourceUnavailableError, UsageError
from mlflow_wandb_plugin.sources.mlflow.source import MlflowSource
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from tests.support.processes import free_port

Open = Callable[..., Source]


def _contents(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if not path.name.endswith(("-journal", "-wal", "-shm"))
    }


def _run(uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    client.create_run("0", run_name="one")


@pytest.mark.parametrize("prefix", ["", "wandb+"])
def test_a_database_is_left_as_it_is(
    sqlite: str, tmp_path: Path, opened: Open, prefix: str
) -> None:
    """Listing creates no file and no folder; ``wandb+`` before the URI changes nothing."""
    _run(sqlite)
    before = _contents(tmp_path)
    assert [run.name for run in opened(prefix + sqlite).runs(Selection())] == ["one"]
    assert _contents(tmp_path) == before


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}", "wandb+file:{}"])
def test_a_folder_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Open, form: str
) -> None:
    """MLflow's folder for what was deleted is not left behind; newer versions of MLflow open
    folders without being told to."""
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        _run(str(tmp_path / "mlruns"))
    (tmp_path / "mlruns" / ".trash").rmdir()
    before = _contents(tmp_path)
    source = opened(form.format(tmp_path / "mlruns"))
    assert [run.name for run in source.runs(Selection())] == ["one"]
    assert _contents(tmp_path) == before


def test_mlflows_own_store(sqlite: str, monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    """``mlflow:`` is the store that MLFLOW_TRACKING_URI names."""
    _run(sqlite)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite)
    assert [run.name for run in opened("mlflow:").runs(Selection())] == ["one"]


def test_a_wandb_folder_stays_one(tmp_path: Path, opened: Open) -> None:
    """A folder without MLflow's experiments is one of W&B."""
    (tmp_path / "wandb").mkdir()
    assert isinstance(opened(str(tmp_path / "wandb")), WandbDir)
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("name: Default\nexperiment_id: '0'\n")
    assert isinstance(opened(str(tmp_path / "mlruns")), MlflowSource)


@pytest.mark.parametrize("uri", ["sqlite:///{}/none.db", "sqlite:///{}/empty.db", "file:{}/none"])
def test_no_store(tmp_path: Path, opened: Open, uri: str) -> None:
    """What does not exist, or has no tables, is not created."""
    (tmp_path / "empty.db").touch()
    before = _contents(tmp_path)
    with pytest.raises(UsageError, match=r"there is no MLflow store at|is not a source"):
        opened(uri.format(tmp_path))
    assert _contents(tmp_path) == before


def test_a_database_of_an_older_mlflow(sqlite: str, tmp_path: Path, opened: Open) -> None:
    """It is not migrated: the message says how to."""
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("DROP TABLE logged_models")
    with pytest.raises(UsageError, match="mlflow db upgrade"):
        opened(sqlite)


def test_a_database_of_another_schema(sqlite: str, tmp_path: Path, opened: Open) -> None:
    """MLflow's own words are in the message."""
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'other'")
        database.commit()
    with pytest.raises(UsageError, match=r"MLflow cannot open sqlite://.*schema"):
        opened(sqlite)


def test_a_server_that_is_not_there(opened: Open) -> None:
    """One line at once, without the password."""
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    with pytest.raises(SourceUnavailableError, match="cannot be reached") as caught:
        opened(uri)
    assert "secret" not in str(caught.value)


def test_a_server_that_refuses(server: str, opened: Open) -> None:
    """A server that is no MLflow is an error of the source."""
    from mlflow_wandb_plugin.errors import SourceError

    with pytest.raises(SourceError, match="MLflow: "):
        list(opened(f"{server}/nothing/here").runs(Selection()))
