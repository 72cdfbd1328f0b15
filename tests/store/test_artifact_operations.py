"""Files of runs and logged models, by every method that writes them."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import (
    _artifact_repository_registry,
    get_artifact_repository,
)
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path

from mlflow_wandb_plugin.store.artifact_operations import OPERATIONS, find_run_path
from mlflow_wandb_plugin.store.swap import is_swapped, swapped
from tests.store.conftest import Sent
from tests.support.mlflow_features import needs_streams
from tests.support.modes import no_umask
from tests.support.outboxes import JournalContent

SentOf = Callable[[str], JournalContent]


@pytest.fixture
def run_id(mirrored: str) -> str:
    return str(MlflowClient().create_run("0").info.run_id)


@pytest.fixture
def proxy(run_id: str, tmp_path: Path) -> Any:
    """The repository with which a server hands artifacts through: the root of all of them."""
    return get_artifact_repository(str(tmp_path / "served"))


def contents(run: JournalContent) -> dict[str, bytes]:
    return {path: file.read_bytes() for path, file in run.files.items()}


def test_file_paths_are_mlflows(run_id: str, tmp_path: Path, sent_of: SentOf) -> None:
    """A file alone, a file below a path, and a folder have MLflow's paths."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "b.txt").write_text("b")
    client = MlflowClient()
    client.log_artifact(run_id, str(folder / "a.txt"))
    client.log_artifact(run_id, str(folder / "a.txt"), "x/y")
    client.log_artifacts(run_id, str(folder))
    client.log_artifacts(run_id, str(folder), "z")
    assert contents(sent_of(run_id)) == {
        "a.txt": b"a", "x/y/a.txt": b"a", "sub/b.txt": b"b", "z/a.txt": b"a", "z/sub/b.txt": b"b",
    }  # fmt: skip
    files = {item.path for item in client.list_artifacts(run_id, "z/sub")}
    assert files == {"z/sub/b.txt"}


class Threaded(LocalArtifactRepository):
    """A storage whose folders go up file by file, in threads."""

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        with ThreadPoolExecutor(2) as pool:
            for name in os.listdir(local_dir):
                pool.submit(
                    self.log_artifact, os.path.join(local_dir, name), artifact_path
                ).result()


def test_folder_that_is_uploaded_in_threads_is_journalled_once(
    run_id: str, tmp_path: Path, sent_of: SentOf
) -> None:
    """Files that threads upload as part of a folder are journalled once."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(name)
    repository = swapped(Threaded(MlflowClient().get_run(run_id).info.artifact_uri), OPERATIONS)
    repository.log_artifacts(str(folder), "p")
    repository.log_artifact(str(folder / "a"), "q")
    paths = [operation["path"] for operation in sent_of(run_id).of("file")]
    assert paths == ["p/a", "p/b", "p/c", "q/a"]


def test_directory_logged_as_an_artifact(run_id: str, tmp_path: Path, sent_of: SentOf) -> None:
    """`log_artifact` of a folder keeps the folder's name in the path, as MLflow does."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    MlflowClient().log_artifact(run_id, str(folder), "p")
    assert list(contents(sent_of(run_id))) == ["p/folder/a.txt"]


def test_each_content_of_a_file_is_kept(run_id: str, tmp_path: Path, sent_of: SentOf) -> None:
    """A file that is logged twice is journalled with both contents."""
    file = tmp_path / "log.txt"
    for text in ("one", "two"):
        file.write_text(text)
        MlflowClient().log_artifact(run_id, str(file))
    file.write_text("three")
    run = sent_of(run_id)
    kept = [run.files["log.txt"].parent / operation["file"] for operation in run.of("file")]
    assert [path.read_text() for path in kept] == ["one", "two"]


def test_a_linked_file_keeps_mlflows_mode_behind_a_closed_folder(
    run_id: str, tmp_path: Path, sent_of: SentOf
) -> None:
    """A hard link shares the mode of the file that MLflow stores, which other users of its store
    may have to read: the folder of the link lets nobody else in, even if it was opened before."""
    client = MlflowClient()
    (tmp_path / "model.bin").write_bytes(b"weights")
    with no_umask():
        client.log_artifact(run_id, str(tmp_path / "model.bin"))
        first = sent_of(run_id).files["model.bin"]
        first.parent.chmod(0o755)
        client.log_artifact(run_id, str(tmp_path / "model.bin"), "again")
    run = sent_of(run_id)
    stored = Path(local_file_uri_to_path(client.get_run(run_id).info.artifact_uri))
    for path in ("model.bin", "again/model.bin"):
        kept, ours = run.files[path].stat(), (stored / path).stat()
        assert (kept.st_ino, kept.st_nlink) == (ours.st_ino, 2)
        assert stat.S_IMODE(ours.st_mode) & 0o044 == 0o044
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700


def test_each_content_of_a_temporary_file_reaches_a_server(
    fresh_process: Path, server: str, sent: Sent
) -> None:
    """The files go to the server over HTTP, and the script writes into the one file again."""
    mlflow.set_tracking_uri(f"wandb+{server}")
    run = MlflowClient().create_run("0")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "best.txt")
        for epoch in range(3):
            file.write_text(f"epoch {epoch}")
            MlflowClient().log_artifact(run.info.run_id, str(file), f"epoch{epoch}")
        file.write_text("after the last")
    expected = {f"epoch{epoch}/best.txt": f"epoch {epoch}".encode() for epoch in range(3)}
    assert contents(sent()[run.info.run_id]) == expected


def test_each_content_of_a_folders_file_is_kept(
    run_id: str, tmp_path: Path, sent_of: SentOf
) -> None:
    """MLflow overwrites a folder's files; the journal keeps the earlier contents."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for text in ("one", "two"):
        (folder / "log.txt").write_text(text)
        MlflowClient().log_artifacts(run_id, str(folder), "logs")
    run = sent_of(run_id)
    kept = [run.files["logs/log.txt"].parent / operation["file"] for operation in run.of("file")]
    assert [path.read_text() for path in kept] == ["one", "two"]
    assert MlflowClient().list_artifacts(run_id, "logs")[0].path == "logs/log.txt"


def test_deletion_is_journalled(run_id: str, sent_of: SentOf) -> None:
    """A deletion is journalled with its path; an empty path is all files of the run."""
    client = MlflowClient()
    client.log_text(run_id, "text", "a/b.txt")
    repository = get_artifact_repository(client.get_run(run_id).info.artifact_uri)
    repository.delete_artifacts("a")
    repository.delete_artifacts()
    assert [operation["path"] for operation in sent_of(run_id).of("unfile")] == ["a", ""]


@needs_streams
def test_server_that_proxies_artifacts(
    run_id: str, proxy: Any, sent_of: SentOf, tmp_path: Path
) -> None:
    """On a proxying server the run is in the path, for streams, files and deletions."""

    async def chunks() -> AsyncIterator[bytes]:
        for part in (b"a", b"bc", b""):
            yield part

    root = f"0/{run_id}/artifacts"
    proxy.log_artifact_from_stream(io.BytesIO(b"x" * 3_000_000), "big.bin", f"{root}/deep")
    asyncio.run(proxy.log_artifact_from_async_stream(chunks(), "abc.txt", root))
    asyncio.run(proxy.log_artifact_from_async_stream(_nothing(), "empty.txt", root))
    (tmp_path / "file.txt").write_text("file")
    proxy.log_artifact(str(tmp_path / "file.txt"), root)
    proxy.delete_artifacts(f"{root}/abc.txt")
    run = sent_of(run_id)
    assert {path: file.read_bytes() for path, file in run.files.items()} == {
        "deep/big.bin": b"x" * 3_000_000, "empty.txt": b"", "file.txt": b"file",
    }  # fmt: skip
    assert (tmp_path / "served" / root / "deep" / "big.bin").stat().st_size == 3_000_000


async def _nothing() -> AsyncIterator[bytes]:
    for part in ():
        yield part


@needs_streams
def test_broken_upload_leaves_nothing(
    run_id: str, proxy: Any, sent_of: SentOf, fresh_process: Path
) -> None:
    """A client disconnects during an upload: neither MLflow nor the journal has the file."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        asyncio.run(
            proxy.log_artifact_from_async_stream(broken(), "a.txt", f"0/{run_id}/artifacts")
        )
    assert not sent_of(run_id).of("file")
    files = fresh_process / f"{run_id}.files"
    assert not files.exists() or not list(files.iterdir())


@needs_streams
def test_full_disk_loses_only_the_copy_for_wandb(
    run_id: str, proxy: Any, sent_of: SentOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MLflow's upload succeeds, and the journal counts the missing file."""

    def full(*args: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlflow_wandb_plugin.store.journal_writers.RunFiles.open_new", full)
    root = f"0/{run_id}/artifacts"
    proxy.log_artifact_from_stream(io.BytesIO(b"abc"), "a.txt", root)
    assert (tmp_path / "served" / root / "a.txt").read_bytes() == b"abc"
    assert list(sent_of(run_id).lost) == ["file a.txt: No space left on device"]


class InParts(LocalArtifactRepository):
    """A storage that takes uploads in parts, as object stores do."""

    def create_multipart_upload(
        self, local_file: str, num_parts: int, path: Any = None
    ) -> None: ...
    def abort_multipart_upload(self, local_file: str, upload_id: str, path: Any = None) -> None: ...

    def complete_multipart_upload(
        self, local_file: str, upload_id: str, parts: Any, artifact_path: str | None = None
    ) -> None: ...


def test_upload_in_parts_is_counted(run_id: str, sent_of: SentOf, tmp_path: Path) -> None:
    """This process has not seen the content: the journal counts the missing file."""
    repository = swapped(InParts(str(tmp_path / "served")), OPERATIONS)
    repository.complete_multipart_upload("a.bin", "id", [], f"0/{run_id}/artifacts/big")
    repository.complete_multipart_upload(
        "b.bin", upload_id="id", parts=[], artifact_path=f"0/{run_id}/artifacts"
    )
    lost = list(sent_of(run_id).lost)
    assert [what.split(":")[0] for what in lost] == ["file big/a.bin", "file b.bin"]


def test_files_of_a_logged_model(run_id: str, sent_of: SentOf, tmp_path: Path) -> None:
    """They are in the journal of the run that created the model, with the model's id."""
    client = MlflowClient()
    model = client.create_logged_model("0", name="m", source_run_id=run_id)
    (tmp_path / "weights.bin").write_bytes(b"w")
    client.log_model_artifact(model.model_id, str(tmp_path / "weights.bin"))
    [(path, file)] = sent_of(run_id).model_files[model.model_id].items()
    assert (path, file.read_bytes()) == ("weights.bin", b"w")


def test_what_belongs_to_no_run_is_not_mirrored(
    run_id: str, sent_of: SentOf, sent: Sent, tmp_path: Path
) -> None:
    """Traces, other folders and unknown runs are not mirrored."""
    (tmp_path / "a.txt").write_text("a")
    for place in ("0/traces/tr-" + "a" * 32 + "/artifacts", "anywhere", "0/x/artifacts"):
        get_artifact_repository(str(tmp_path / "mlruns" / place)).log_artifact(
            str(tmp_path / "a.txt")
        )
    assert list(sent()) == [run_id]
    assert not sent_of(run_id).of("file")


@pytest.mark.parametrize(
    ("uri", "parts", "path"),
    [
        ("mlflow-artifacts:/0/{run}/artifacts", ("a", "b.txt"), "a/b.txt"),
        ("http://h/api/2.0/mlflow-artifacts/artifacts/3/{run}/artifacts", (None, "b"), "b"),
        ("s3://bucket/{run}/artifacts/sub", ("b",), "sub/b"),
        ("s3://bucket/root/", (f"workspaces/w/0/{{run}}/artifacts/{'c' * 32}/artifacts",),
         f"{'c' * 32}/artifacts"),
        ("file:///m/0/{run}/artifacts/", (), ""),
    ],
)  # fmt: skip
def test_run_and_path_are_found_in_the_uri_or_below(
    run_id: str, uri: str, parts: tuple[str | None, ...], path: str
) -> None:
    """The run's folder is recognised in URIs of every kind of artifact storage."""

    class Somewhere:
        artifact_uri = uri.format(run=run_id)

    place = find_run_path(Somewhere(), *(part and part.format(run=run_id) for part in parts))
    assert place is not None
    assert (place.run.run_id, place.path, place.model) == (run_id, path, None)


def test_prefixed_artifact_uris_and_repositories(mirrored: str, tmp_path: Path) -> None:
    """``wandb+`` is removed from URIs; repositories that delegate are not mirrored."""
    repository = get_artifact_repository(f"wandb+file://{tmp_path}/x")
    assert isinstance(repository, LocalArtifactRepository)
    assert repository.artifact_uri == f"file://{tmp_path}/x"
    remote = get_artifact_repository("mlflow-artifacts:/0", "wandb+http://127.0.0.1:1")
    assert remote.artifact_uri.startswith("http://127.0.0.1:1/")
    assert remote.tracking_uri == "http://127.0.0.1:1"
    run = MlflowClient().create_run("0")
    following = get_artifact_repository(f"runs:/{run.info.run_id}/x")
    assert not is_swapped(following)


def test_entry_point_builds_the_same(mirrored: str, tmp_path: Path) -> None:
    """The entry point builds a mirrored repository, too."""
    from mlflow_wandb_plugin.store import entry

    repository = entry.artifact_repository(f"wandb+file://{tmp_path}/x")
    assert isinstance(repository, ArtifactRepository)
    assert is_swapped(repository)
    assert "wandb+s3" in _artifact_repository_registry._registry


def test_async_image_is_mirrored(mirrored: str, sent_of: SentOf) -> None:
    """MLflow's queue of artifacts writes through the mirrored repository."""
    import numpy as np

    with mlflow.start_run() as run:
        image = np.zeros((4, 4, 3), dtype=np.uint8)
        mlflow.log_image(image, key="k", step=1, synchronous=False)
        mlflow.flush_artifact_async_logging()
    assert len(sent_of(run.info.run_id).files) == 2
