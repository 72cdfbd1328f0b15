"""Files, artifacts and documents of a run; nothing that is wrong with one stops the others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef, FileRef, RowObjects
from mlflow_wandb_plugin.errors import TargetUnavailableError
from mlflow_wandb_plugin.targets.mlflow.run_files import RunFiles
from tests.targets.mlflow.writing import document, downloaded, end, opened, run_info, the_run


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


def file(folder: Path, name: str, text: str = "content") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def losses(uri: str) -> Any:
    return json.loads(the_run(uri).tags["wandb.sync.losses"])


def write(uri: str, *items: Any) -> None:
    info = run_info()
    with opened(uri, info) as writer:
        for item in items:
            writer.add(item)
        end(writer, info)


# -- files --------------------------------------------------------------------------------------


def test_files_arrive_under_their_path(fresh_store: str, local: Path, tmp_path: Path) -> None:
    """Below wandb/files; a name that cannot be is rewritten, and never leaves the folder."""
    names = ["output.log", "media/images/a.png", "../../etc/passwd", "odd#name%.txt", "/abs"]
    write(fresh_store, *[FileRef(name, file(local, f"f{n}", name)) for n, name in enumerate(names)])
    run = the_run(fresh_store, tmp_path / "artifacts")
    found = [path for path in run.artifacts if path.startswith("wandb/files/")]
    assert {"wandb/files/output.log", "wandb/files/media/images/a.png"} < set(found)
    texts = {downloaded(fresh_store, run, path, tmp_path).read_text() for path in found}
    assert texts == set(names)
    assert losses(fresh_store) == {}


def test_a_file_that_is_not_there_is_counted(fresh_store: str, local: Path, tmp_path: Path) -> None:
    """Gone, a folder, or a dangling link: the others arrive, and the losses say which did not."""
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
    """Permissions are no reason to stop."""
    secret = file(local, "secret")
    secret.chmod(0)
    write(fresh_store, FileRef("secret", secret))
    assert losses(fresh_store) == {"file_missing": 1}


@pytest.mark.parametrize("name", ["same-name", "other-name"])
def test_a_file_that_vanishes_before_its_upload_is_counted(
    fresh_store: str, local: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """wandb-core deletes what it has uploaded: that is not an MLflow that is down."""
    path = file(local, name)
    send = RunFiles._send

    def too_late(self: RunFiles, where: Path, target: str, loss: str) -> None:
        path.unlink(missing_ok=True)
        send(self, where, target, loss)

    monkeypatch.setattr(RunFiles, "_send", too_late)
    write(fresh_store, FileRef("same-name", path))
    assert losses(fresh_store) == {"file_missing": 1}


def test_a_file_that_changes_is_sent_again(fresh_store: str, local: Path, tmp_path: Path) -> None:
    """The console log grows: its last state counts; what is unchanged is sent once."""
    path, info = file(local, "output.log", "one"), run_info()
    sent: list[str] = []
    with opened(fresh_store, info) as writer:
        log = writer._client.client.log_artifact
        writer._client.client.log_artifact = lambda *a: (sent.append(a[1]), log(*a))[1]  # type: ignore[method-assign]
        for text in ("one", "one and two"):
            path.write_text(text)
            writer.add(FileRef("output.log", path))
            writer.add(FileRef("output.log", path))
            writer._files._wait()
        end(writer, info)
    run = the_run(fresh_store)
    text = downloaded(fresh_store, run, "wandb/files/output.log", tmp_path).read_text()
    assert text == "one and two"
    assert len([name for name in sent if name.endswith("output.log")]) == 2


def test_an_mlflow_that_is_down_is_the_callers_error(
    fresh_store: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is counted as lost: the run is not finished, and will be taken up again."""
    info = run_info()

    def down(*_: object) -> None:
        raise ConnectionError("MLflow is gone")

    with opened(fresh_store, info) as writer:
        monkeypatch.setattr(writer._client.client, "log_artifact", down)
        writer.add(FileRef("a", file(local, "a")))
        with pytest.raises(TargetUnavailableError, match="MLflow is gone"):
            end(writer, info)
        assert writer.losses == {}
    assert the_run(fresh_store).tags["wandb.sync.state"] == "live"


def test_a_file_that_mlflow_refuses_is_counted(
    fresh_store: str, local: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Refused is not missing; the rest of the run is written."""
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


def test_nothing_is_left_behind_locally(fresh_store: str, local: Path) -> None:
    """The spool goes with the writer, finished or not."""
    with opened(fresh_store, run_info()) as writer:
        spool = writer._files._spool
        writer.add(FileRef("a", file(local, "a")))
        assert spool.is_dir()
    assert not spool.exists()


# -- artifacts ----------------------------------------------------------------------------------


def test_an_artifact_arrives_with_what_describes_it(
    fresh_store: str, local: Path, tmp_path: Path
) -> None:
    """Files below type, name and version; references and metadata in its JSON."""
    artifact = ArtifactRef(
        type="model", name="net", version="abc", digest="abcdef", aliases=("best",),
        metadata={"epoch": 3},
        entries=(
            ArtifactEntry("w/a.bin", "d1", 7, local=file(local, "staged", "weights")),
            ArtifactEntry("remote.bin", "d2", 9, ref="s3://bucket/x"),
        ),
    )  # fmt: skip
    write(fresh_store, artifact)
    run = the_run(fresh_store)
    base = "wandb/artifacts/model/net/abc"
    assert downloaded(fresh_store, run, f"{base}/w/a.bin", tmp_path).read_text() == "weights"
    told = document(fresh_store, run, f"{base}.json", tmp_path)
    assert (told["digest"], told["aliases"], told["metadata"]) == ("abcdef", ["best"], {"epoch": 3})
    assert told["entries"][1] == {
        "path": "remote.bin", "digest": "d2", "size": 9, "ref": "s3://bucket/x",
    }  # fmt: skip
    assert losses(fresh_store) == {}


def test_an_artifact_whose_files_are_gone_is_counted_by_file(fresh_store: str, local: Path) -> None:
    """Cleaned from wandb's staging, or never local: the description still arrives."""
    entries = (
        ArtifactEntry("a", "d", 1, local=local / "cleaned"),
        ArtifactEntry("b", "d", 1),
        ArtifactEntry("c", "d", 1, local=file(local, "c")),
    )
    write(fresh_store, ArtifactRef("dataset", "set", "v", entries=entries))
    assert losses(fresh_store) == {"artifact_file_missing": 2}


def test_an_artifacts_name_cannot_leave_its_folder(fresh_store: str, local: Path) -> None:
    """Types and names are user text."""
    entry = ArtifactEntry("../../../x", "d", 1, local=file(local, "x"))
    write(fresh_store, ArtifactRef("../up", "a/b", "..", entries=(entry,)))
    run_id = the_run(fresh_store).run_id
    client, found, folders = MlflowClient(fresh_store), [], ["wandb/artifacts"]
    while folders:
        for item in client.list_artifacts(run_id, folders.pop()):
            (folders if item.is_dir else found).append(item.path)
    assert len(found) == 2
    assert losses(fresh_store) == {}


def test_used_artifacts_are_inputs(fresh_store: str, tmp_path: Path) -> None:
    """Once each, as lineage and as MLflow's inputs."""
    used = ArtifactRef("dataset", "mnist", "v3", used=True)
    write(fresh_store, used, used)
    run = the_run(fresh_store)
    expected = {"type": "dataset", "name": "mnist", "version": "v3"}
    assert document(fresh_store, run, "wandb/lineage.json", tmp_path) == [expected]
    (found,) = MlflowClient(fresh_store).get_run(run.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("mnist", "v3")


# -- what rows hold beside numbers --------------------------------------------------------------


def test_history_lines_hold_exactly_what_was_logged(fresh_store: str, tmp_path: Path) -> None:
    """Text with every kind of line break, nested values, null; one line a row."""
    odd = "a\u2028b\x85c\rd\ne"
    write(
        fresh_store,
        RowObjects(1, 10, {("text",): odd, ("n", "x"): None}),
        RowObjects(2, 20, {("list",): [1, "two"]}),
        RowObjects(1, 10, {("text",): odd, ("n", "x"): None}),
    )
    rows = document(fresh_store, the_run(fresh_store), "wandb/history.jsonl", tmp_path)
    assert rows == [
        {"_step": 1, "_timestamp_ms": 10, "text": odd, "n": {"x": None}},
        {"_step": 2, "_timestamp_ms": 20, "list": [1, "two"]},
    ]


def test_documents_of_an_earlier_session_are_kept(fresh_store: str, tmp_path: Path) -> None:
    """A run that is resumed on another machine loses nothing that the first one wrote."""
    info = run_info(config={"a": 1}, summary={"x": 1})
    with opened(fresh_store, info) as writer:
        writer.add(RowObjects(1, 10, {("t",): "one"}))
        writer.add(ArtifactRef("dataset", "one", "v1", used=True))
        end(writer, info)
    later = run_info(config={"b": 2}, summary={"x": 5}, segments=("seg", "seg2"))
    with opened(fresh_store, later) as writer:
        writer.add(RowObjects(2, 20, {("t",): "two"}))
        writer.add(ArtifactRef("dataset", "two", "v1", used=True))
        end(writer, later)
    run = the_run(fresh_store)
    rows = document(fresh_store, run, "wandb/history.jsonl", tmp_path)
    assert [row["t"] for row in rows] == ["one", "two"]
    assert document(fresh_store, run, "wandb/config.json", tmp_path) == {"a": 1, "b": 2}
    assert document(fresh_store, run, "wandb/summary.json", tmp_path) == {"x": 5}
    lineage = document(fresh_store, run, "wandb/lineage.json", tmp_path)
    assert [entry["name"] for entry in lineage] == ["one", "two"]


def test_the_spool_may_vanish(fresh_store: str, local: Path) -> None:
    """`close` never raises, whatever happened to the temporary folder."""
    with opened(fresh_store, run_info()) as writer:
        shutil.rmtree(writer._files._spool)
