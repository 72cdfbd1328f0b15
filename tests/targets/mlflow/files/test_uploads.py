"""Uploads of a run's files: a bad file does not stop the others."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient

from mlflow_wandb_plugin.core.model import Checkpoint, FileRef
from mlflow_wandb_plugin.core.protocols import TargetOptions, WritePath
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetUnavailableError
from mlflow_wandb_plugin.targets.mlflow.files.uploads import Uploads
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_state import read_runs
from tests.targets.mlflow.writing import (
    document,
    downloaded,
    end,
    file,
    losses,
    opened,
    points,
    run_info,
    the_run,
    write,
)


def test_files_arrive_under_their_path(fresh_store: str, local: Path, tmp_path: Path) -> None:
    """Files are below wandb/files, and illegal names are rewritten."""
    names = ["output.log", "media/images/a.png", "../../etc/passwd", "odd#name%.txt", "/abs"]
    write(fresh_store, *[FileRef(name, file(local, f"f{n}", name)) for n, name in enumerate(names)])
    run = the_run(fresh_store, tmp_path / "artifacts")
    found = [path for path in run.artifacts if path.startswith("wandb/files/")]
    assert {"wandb/files/output.log", "wandb/files/media/images/a.png"} < set(found)
    texts = {downloaded(fresh_store, run, path, tmp_path).read_text() for path in found}
    assert texts == set(names)
    assert losses(fresh_store) == {}


def test_a_file_that_is_not_there_is_counted(fresh_store: str, local: Path, tmp_path: Path) -> None:
    """A missing file, a folder and a dangling link are losses; other files are uploaded."""
    (local / "folder").mkdir()
    (local / "link").symlink_to(local / "nowhere")
    missing = [FileRef(name, local / name) for name in ("gone", "folder", "link")]
    write(fresh_store, *missing, FileRef("there", file(local, "there")))
    assert losses(fresh_store) == {"file_missing": 3}
    run = the_run(fresh_store)
    lost = document(fresh_store, run, "wandb/losses.jsonl", tmp_path)
    assert {line["key"] for line in lost} == {f"wandb/files/{ref.path}" for ref in missing}
    assert downloaded(fresh_store, run, "wandb/files/there", tmp_path).read_text() == "content"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_counted(fresh_store: str, local: Path) -> None:
    """A file without read permission is a loss."""
    secret = file(local, "secret")
    secret.chmod(0)
    write(fresh_store, FileRef("secret", secret))
    assert losses(fresh_store) == {"file_missing": 1}


@pytest.mark.parametrize("name", ["same-name", "other-name"])
def test_a_file_that_vanishes_before_its_upload_is_counted(
    fresh_store: str, local: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A file that wandb-core deletes before its upload is a loss, not an unavailable target."""
    path = file(local, name)
    send = Uploads._send

    def too_late(self: Uploads, where: Path, target: str, loss: str) -> None:
        path.unlink(missing_ok=True)
        send(self, where, target, loss)

    monkeypatch.setattr(Uploads, "_send", too_late)
    write(fresh_store, FileRef("same-name", path))
    assert losses(fresh_store) == {"file_missing": 1}


def test_the_last_of_several_files_of_one_name_is_kept(
    fresh_store: str, local: Path, tmp_path: Path
) -> None:
    """Each log of a resumed run has such a file; an upload that is slow does not win."""
    first, second, info = file(local, "first", "one"), file(local, "second", "two!"), run_info()
    with opened(fresh_store, info) as writer:
        log = writer._client.client.log_artifact

        def slow(run_id: str, path: str, folder: str | None = None) -> None:
            if Path(path).read_text() == "one":
                arrived.wait(1.0)
            log(run_id, path, folder)
            arrived.set()

        arrived = threading.Event()
        writer._client.client.log_artifact = slow  # type: ignore[method-assign]
        writer.add(FileRef("summary.json", first))
        writer.add(FileRef("summary.json", second))
        end(writer, info)
    run = the_run(fresh_store)
    stored = downloaded(fresh_store, run, "wandb/files/summary.json", tmp_path)
    assert stored.read_text() == "two!"


def test_a_file_that_changes_is_sent_again(fresh_store: str, local: Path, tmp_path: Path) -> None:
    """A changed file is uploaded again, and an unchanged one is not."""
    path, info = file(local, "output.log", "one"), run_info()
    sent: list[str] = []
    with opened(fresh_store, info) as writer:
        log = writer._client.client.log_artifact
        writer._client.client.log_artifact = lambda *a: (sent.append(a[1]), log(*a))[1]  # type: ignore[method-assign]
        for text in ("one", "one and two"):
            path.write_text(text)
            writer.add(FileRef("output.log", path))
            writer.add(FileRef("output.log", path))
            writer._files._uploads.wait()
        end(writer, info)
    run = the_run(fresh_store)
    text = downloaded(fresh_store, run, "wandb/files/output.log", tmp_path).read_text()
    assert text == "one and two"
    assert len([name for name in sent if name.endswith("output.log")]) == 2


def test_an_mlflow_that_is_down_is_the_callers_error(
    fresh_store: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unavailable MLflow raises an error; nothing is lost and the run is not finished."""
    info = run_info()

    def down(*_: object) -> None:
        raise ConnectionError("MLflow is gone")

    with opened(fresh_store, info) as writer:
        monkeypatch.setattr(writer._client.client, "log_artifact", down)
        writer.add(FileRef("a", file(local, "a")))
        with pytest.raises(TargetUnavailableError, match="MLflow is gone"):
            end(writer, info)
        assert writer.losses == {}
    assert the_run(fresh_store).tags["mlflow.wandb.state"] == "live"


def test_a_file_that_mlflow_refuses_is_counted(
    fresh_store: str, local: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that MLflow refuses is counted as refused, and the rest is written."""
    from mlflow.exceptions import MlflowException

    info = run_info()
    with opened(fresh_store, info) as writer:
        log = writer._client.client.log_artifact

        def picky(run_id: str, path: str, folder: str) -> None:
            if path.endswith("bad.bin"):
                raise MlflowException.invalid_parameter_value("no such files here")
            log(run_id, path, folder)

        monkeypatch.setattr(writer._client.client, "log_artifact", picky)
        writer.add(FileRef("bad.bin", file(local, "bad.bin")))
        writer.add(FileRef("good.bin", file(local, "good.bin")))
        end(writer, info)
    assert losses(fresh_store) == {"file_refused": 1}
    run = the_run(fresh_store)
    assert downloaded(fresh_store, run, "wandb/files/good.bin", tmp_path).exists()


@pytest.mark.parametrize("status", [401, 404, 413, 422])
def test_an_upload_that_the_server_refuses_for_good_is_a_loss(
    server: str, local: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    """The run ends with its status, complete but for the file; other files arrive."""
    send = requests.Session.request

    def picky(session: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        if method == "PUT" and url.endswith("bad.bin"):
            answer = requests.Response()
            answer.status_code, answer.raw = status, io.BytesIO(b"too large")
            return answer
        return send(session, method, url, *args, **kwargs)

    monkeypatch.setattr(requests.Session, "request", picky)
    info = run_info(run_id=f"refused{status}", project="refused")
    with opened(server, info) as writer:
        for name in ("bad.bin", "good.bin"):
            writer.add(FileRef(name, file(local, name)))
        end(writer, info)
    (run,) = read_runs(server, only=info.run_id).values()
    assert (run.status, run.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")
    assert json.loads(run.tags["mlflow.wandb.losses"]) == {"file_refused": 1}
    assert downloaded(server, run, "wandb/files/good.bin", tmp_path).read_text() == "content"


@pytest.mark.parametrize("place", ["s3://bucket/runs", "occupied/runs"])
@pytest.mark.parametrize("path", ["auto", "api"])
def test_a_place_for_artifacts_that_cannot_be_used_costs_the_files_alone(
    fresh_store: str, local: Path, place: str, path: WritePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the library of the place, or with a file where its folder would be, the run ends
    complete, with its points, params and tags, and counts what it lacks."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    file(local, "occupied")
    where = place if "://" in place else str(local / place)
    experiment = MlflowClient(fresh_store).create_experiment("there", where)
    options = TargetOptions(experiment_id=experiment, write_path=path)
    info = run_info(first_config={("lr@0",): 1}, tags=("t",))
    for _ in range(2):
        target = MlflowTarget(fresh_store, options, Backoff(0.0))
        writer = target.open(info, "backfill", target.find(info))
        writer.append(points("a@b", [1.0, 2.0]))
        writer.add(FileRef("f", file(local, "f")))
        writer.checkpoint(Checkpoint("seg", 5))
        end(writer, info)
        writer.close()
    run = the_run(fresh_store)
    assert (run.status, run.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")
    assert (run.params, run.points("a_b")) == ({"lr_0": "1"}, [(0, 1.0), (1, 2.0)])
    lost = losses(fresh_store)
    assert lost["file_refused"] >= 1
    assert lost["document_refused"] >= 1


def test_nothing_is_left_behind_locally(fresh_store: str, local: Path) -> None:
    """The temporary folder is removed with the writer, finished or not."""
    with opened(fresh_store, run_info()) as writer:
        spool = writer._files._uploads.folder
        writer.add(FileRef("a", file(local, "a")))
        assert spool.is_dir()
    assert not spool.exists()


def test_the_temporary_folder_may_vanish(fresh_store: str, local: Path) -> None:
    """`close` never raises, whatever happened to the temporary folder."""
    with opened(fresh_store, run_info()) as writer:
        shutil.rmtree(writer._files._uploads.folder)
