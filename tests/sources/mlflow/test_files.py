"""Files, images, tables, models and datasets of MLflow runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source
from tests.sources.mlflow.conftest import Read

T = 1_700_000_000_000
# MLflow 3.1 cuts the address of a file at the sign that stands for the slash of an image's key.
OLD_MLFLOW = version("mlflow").startswith("3.1.")
IMAGE_KEY = "sample" if OLD_MLFLOW else "eval/sample"
Open = Callable[..., Source]


@pytest.fixture
def logged(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    """A run with one of each; its store and MLflow's entity. The name of the run is unique."""
    import uuid

    import numpy as np
    from mlflow import MlflowClient
    from mlflow.data import from_numpy
    from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput
    from PIL import Image

    # MLflow's registry looks for a version's model in the process's own store.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    client = MlflowClient()
    experiment = client.create_experiment(uuid.uuid4().hex)
    run = client.create_run(experiment, run_name=uuid.uuid4().hex)
    run_id = run.info.run_id
    client.log_metric(run_id, "loss", 1.0, T, 0)
    client.log_image(run_id, Image.new("RGB", (4, 3)), key=IMAGE_KEY, step=7, timestamp=T + 5)
    client.log_metric(run_id, "loss", 0.5, T + 10, 1)
    client.log_image(run_id, Image.new("RGB", (2, 2)), artifact_file="plots/p.png")
    client.log_table(run_id, {"a": [1, 2], "b": ["x", "y"]}, "t.json")
    client.log_text(run_id, "hello", "notes/n.txt")
    dataset = from_numpy(np.zeros((2, 2)), name="train data")._to_mlflow_entity()
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "t")])])
    model = client.create_logged_model(
        experiment, name="net", source_run_id=run_id, params={"k": "1"}, tags={"t": "v"},
        model_type="torch",
    )  # fmt: skip
    (tmp_path / "weights.bin").write_bytes(b"weights")
    client.log_model_artifacts(model.model_id, str(_folder_of(tmp_path / "weights.bin")))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=4)])
    client.create_registered_model(name := f"m-{run_id[:6]}")
    client.create_model_version(
        name, f"models:/{model.model_id}", run_id, tags={"a": "b"}, model_id=model.model_id
    )
    client.set_registered_model_alias(name, "best", "1")
    client.set_terminated(run_id)
    return store, client.get_run(run_id)


def _folder_of(file: Path) -> Path:
    """A folder with the file alone."""
    folder = file.parent / "model"
    folder.mkdir(exist_ok=True)
    return Path(file.replace(folder / file.name)).parent


def test_files_of_the_run(logged: tuple[str, Any], opened: Open, read: Read) -> None:
    """Each file of the run is below ``artifacts/``, with its content."""
    store, run = logged
    got = read(opened(store), run.info.run_name)
    assert not got.unreadable
    assert not got.refused
    assert got.files["artifacts/notes/n.txt"] == b"hello"
    names = {path for path in got.files if path.startswith("artifacts/")}
    assert len(names) == 5
    assert {"artifacts/plots/p.png", "artifacts/t.json"} < names
    assert got.info.missing is False


def test_step_image_is_a_row_at_its_time(logged: tuple[str, Any], opened: Open, read: Read) -> None:
    """The image is between the points by its time, with its step, as `wandb.Image` is logged."""
    store, run = logged
    got = read(opened(store), run.info.run_name)
    assert got.rows == {
        0: {"loss": 1.0, "mlflow_step": 0.0},
        1: {"mlflow_step": 7.0},
        2: {"loss": 0.5, "mlflow_step": 1.0},
    }
    [image] = [row for row in got.objects if row.step == 1]
    assert image.timestamp_ms == T + 5
    value = image.values[IMAGE_KEY,]
    content = got.files[value["path"]]
    digest = hashlib.sha256(content).hexdigest()
    assert content.startswith(b"\x89PNG")
    assert value == {
        "_type": "image-file", "path": f"media/images/{IMAGE_KEY}_1_{digest[:20]}.png",
        "sha256": digest, "size": len(content), "width": 4, "height": 3, "format": "png",
    }  # fmt: skip


def test_other_images_and_tables_come_last(
    logged: tuple[str, Any], opened: Open, read: Read
) -> None:
    """They have no time of their own: they follow the last row, at the end of the run."""
    store, run = logged
    got = read(opened(store), run.info.run_name)
    plot, table = (row for row in got.objects if row.step > 2)
    assert (plot.step, table.step) == (3, 4)
    assert plot.timestamp_ms == table.timestamp_ms == run.info.end_time
    assert plot.values["plots/p.png",]["width"] == 2
    value = table.values["t.json",]
    assert value["_type"] == "table-file"
    assert (value["ncols"], value["nrows"]) == (2, 2)
    assert json.loads(got.files[value["path"]]) == {
        "columns": ["a", "b"], "data": [[1, "x"], [2, "y"]],
    }  # fmt: skip
    assert got.info.rows == {"mlflow": 5}
    assert got.checkpoints[-1] == 5


def test_model_is_an_artifact(logged: tuple[str, Any], opened: Open, read: Read) -> None:
    """Its metadata, its versions as aliases, and its files."""
    store, run = logged
    got = read(opened(store), run.info.run_name)
    [(model, files)] = [found for found in got.artifacts if found[0].type == "model"]
    registered = f"m-{run.info.run_id[:6]}"
    assert (model.name, model.version, model.used) == ("net", "v0", False)
    [model_id] = [alias for alias in model.aliases if alias.startswith("m-") and len(alias) == 34]
    assert set(model.aliases) == {model_id, f"{registered}-v1", f"{registered}-best"}
    assert files == {"weights.bin": b"weights"}
    tags = model.metadata["mlflow_tags"]
    assert tags["t"] == "v"
    assert {**model.metadata, "mlflow_tags": {}} == {
        "mlflow_model_id": model_id,
        "mlflow_model_type": "torch",
        "mlflow_status": "READY",
        "mlflow_params": {"k": "1"},
        "mlflow_tags": {},
        "mlflow_steps": [4],
        "mlflow_registered_versions": [
            {"name": registered, "version": "1", "aliases": ["best"], "description": "",
             "tags": {"a": "b"}},
        ],
    }  # fmt: skip


def test_dataset_is_a_used_artifact(logged: tuple[str, Any], opened: Open, read: Read) -> None:
    """Its content is what MLflow knows of it."""
    store, run = logged
    got = read(opened(store), run.info.run_name)
    [(dataset, files)] = [found for found in got.artifacts if found[0].used]
    assert dataset.type == "dataset"
    assert dataset.name.startswith("train_data-")
    document = json.loads(files["mlflow_dataset.json"])
    assert document["name"] == "train data"
    assert document["tags"] == {"mlflow.data.context": "t"}
    assert dataset.metadata == {"mlflow_digest": document["digest"], "mlflow_source_type": "code"}
    [listed] = got.info.config["mlflow"]["datasets"]
    assert listed["name"] == "train data"


def test_no_artifacts(logged: tuple[str, Any], opened: Open, read: Read) -> None:
    """Neither files nor artifacts; the points are there."""
    store, run = logged
    got = read(opened(store, artifacts=False), run.info.run_name)
    assert (got.files, got.artifacts, got.objects) == ({}, [], [])
    assert [row["loss"] for row in got.rows.values()] == [1.0, 0.5]


def test_running_run_shows_no_undated_media_yet(sqlite: str, opened: Open, read: Read) -> None:
    """Their row numbers would be those of points that are still to come."""
    from mlflow import MlflowClient
    from PIL import Image

    client = MlflowClient(tracking_uri=sqlite)
    run = client.create_run("0", run_name="r")
    client.log_metric(run.info.run_id, "loss", 1.0, T, 0)
    client.log_image(run.info.run_id, Image.new("RGB", (2, 2)), artifact_file="p.png")
    got = read(opened(sqlite))
    assert got.objects == []
    assert set(got.files) == {"artifacts/p.png"}
    assert got.info.state == "running"
    client.set_terminated(run.info.run_id)
    assert [row.step for row in read(opened(sqlite)).objects] == [1]


def test_links_and_foreign_folders_are_not_read(
    sqlite: str, tmp_path: Path, opened: Open, read: Read
) -> None:
    """A link to a file of the system is refused; so is a folder that is not named as MLflow does,
    which a database that somebody else wrote may have. ``--follow-links`` reads both."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=sqlite)
    run = client.create_run("0", run_name="r")
    client.log_text(run.info.run_id, "mine", "a.txt")
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    os.symlink("/etc/hostname", folder / "b.txt")
    got = read(opened(sqlite))
    assert got.files == {"artifacts/a.txt": b"mine"}
    assert "system folder" in got.refused["artifacts/b.txt"]
    assert set(read(opened(sqlite, follow_links=True)).files) == {
        "artifacts/a.txt", "artifacts/b.txt",
    }  # fmt: skip
    _move_artifacts(tmp_path / "mlflow.db", tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "key.txt").write_text("private")
    got = read(opened(sqlite))
    assert got.files == {}
    assert "MLflow does not name folders so" in got.unreadable[0].reason
    assert got.info.missing is True
    assert read(opened(sqlite, follow_links=True)).files == {"artifacts/key.txt": b"private"}


def test_a_server_names_neither_local_folders_nor_other_servers(
    sqlite: str, tmp_path: Path, opened: Open, read: Read
) -> None:
    """The run's points are read; its files are counted as lost."""
    from mlflow import MlflowClient

    from tests.support.processes import mlflow_server

    client = MlflowClient(tracking_uri=sqlite)
    run = client.create_run("0", run_name="r")
    client.log_metric(run.info.run_id, "loss", 1.0, T, 0)
    client.log_text(run.info.run_id, "mine", "a.txt")
    with mlflow_server(tmp_path / "server", uri=sqlite) as url:
        local = read(opened(url))
        _move_artifacts(tmp_path / "mlflow.db", "mlflow-artifacts://127.0.0.1:1/x")
        elsewhere = read(opened(url))
    assert local.files == elsewhere.files == {}
    assert "a server named it" in local.unreadable[0].reason
    assert "another server, 127.0.0.1" in elsewhere.unreadable[0].reason
    assert local.rows == elsewhere.rows == {0: {"loss": 1.0, "mlflow_step": 0.0}}


@pytest.mark.skipif(OLD_MLFLOW, reason="MLflow 3.1's server answers 500 where a file is gone")
def test_a_file_that_is_gone_is_counted(
    tmp_path: Path, opened: Open, read: Read, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on, and is never complete."""
    import uuid

    from mlflow import MlflowClient

    from mlflow_wandb_plugin.sources.mlflow import artifact_store

    # MLflow 3.1 uploads files to the process's own store.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = MlflowClient(tracking_uri=server)
    run = client.create_run(client.create_experiment(uuid.uuid4().hex), run_name=uuid.uuid4().hex)
    client.log_text(run.info.run_id, "one", "a.txt")
    client.log_text(run.info.run_id, "two", "b.txt")
    client.set_terminated(run.info.run_id)
    listing = artifact_store.ArtifactStore.files

    def with_another(self: Any, folder: str = "") -> Any:
        yield from listing(self, folder)
        yield artifact_store.StoredFile("gone.txt", 9)

    monkeypatch.setattr(artifact_store.ArtifactStore, "files", with_another)
    got = read(opened(server), run.info.run_name)
    assert set(got.files) == {"artifacts/a.txt", "artifacts/b.txt"}
    [lost] = got.unreadable
    assert (lost.length, lost.unit, lost.lost) == (9, "bytes", True)
    assert "file gone.txt" in lost.where
    assert got.info.missing is True


def test_names_lead_nowhere(
    opened: Open, read: Read, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that leads out of the run's folder is not asked for."""
    import uuid

    from mlflow import MlflowClient

    from mlflow_wandb_plugin.sources.mlflow import artifact_store

    # MLflow 3.1 uploads files to the process's own store.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = MlflowClient(tracking_uri=server)
    run = client.create_run(client.create_experiment(uuid.uuid4().hex), run_name=uuid.uuid4().hex)
    client.log_text(run.info.run_id, "deep", "a.txt/a.txt")
    names = ["../x.txt", "/etc/hostname", "a.txt/a.txt"]
    found = [artifact_store.StoredFile(name, 1) for name in names]
    monkeypatch.setattr(artifact_store.ArtifactStore, "files", lambda self, folder="": iter(found))
    got = read(opened(server), run.info.run_name)
    assert got.files == {"artifacts/a.txt/a.txt": b"deep"}
    assert [lost.reason for lost in got.unreadable] == [
        "its name leads out of the run's folder"
    ] * 2


def test_lists_that_a_server_does_not_have(
    sqlite: str, opened: Open, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted, also in the config; asking again would not help, so the run is complete."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=sqlite)
    client.set_terminated(client.create_run("0", run_name="r").info.run_id)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise MlflowException.invalid_parameter_value("not supported here")

    monkeypatch.setattr(MlflowClient, "search_model_versions", refuse)
    got = read(opened(sqlite))
    assert [(lost.unit, lost.lost) for lost in got.unreadable] == [("lists", True)]
    assert got.info.config["mlflow"]["lost"] == {"registered versions not listed": 1}
    assert got.info.missing is False


def test_downloads_are_removed_one_by_one(
    opened: Open, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A downloaded file exists as long as its path is referenced, and no longer."""
    import tempfile
    import uuid

    from mlflow import MlflowClient

    from mlflow_wandb_plugin.core.model import FileRef

    # MLflow 3.1 uploads files to the process's own store.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = MlflowClient(tracking_uri=server)
    experiment = client.create_experiment(uuid.uuid4().hex)
    run = client.create_run(experiment)
    for name in "abc":
        client.log_text(run.info.run_id, name, f"{name}.txt")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = opened(server)
    [info] = source.runs(Selection(experiments=(str(experiment),)))
    most = 0
    for item in source.read(info, {}):
        if isinstance(item, FileRef):
            assert item.local.is_file()
        most = max(most, len(list(tmp_path.glob("mlflow-wandb-read-*/0*/*"))))
    del item
    assert most <= 2


def _move_artifacts(database: Path, uri: object) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (str(uri),))
        connection.commit()


def test_traces_are_counted(env: dict[str, str], tmp_path: Path, opened: Open) -> None:
    """W&B has no place for traces: the config says how many the run has, as for a mirrored run."""
    from tests.support.processes import run_script

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = """
import mlflow

mlflow.set_experiment("traced")
with mlflow.start_run():
    for name in "ab":
        with mlflow.start_span(name):
            pass
with mlflow.start_span("of no run"):
    pass
mlflow.flush_trace_async_logging()
"""
    run_script(code, {**env, "MLFLOW_TRACKING_URI": uri}, tmp_path)
    source = opened(uri)
    [run] = source.runs(Selection())
    assert source.describe(run).config["mlflow"]["traces_not_mirrored"] == 2
