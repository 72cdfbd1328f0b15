"""How an artifact repository's operations are mirrored: files of runs and of their logged models.

A repository knows a URI and no run. MLflow puts a run's artifacts in ``…/RUN_ID/artifacts`` and a
logged model's in ``…/models/MODEL_ID/artifacts``, both below a repository's own URI and, on a
server that hands artifacts through, below the path that it is asked to write.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Generator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from mlflow_wandb_plugin.store.mirrored_runs import MirroredRun, of_this_process
from mlflow_wandb_plugin.store.swap import Changed, Operation

Steps: TypeAlias = Generator["Changed | None", Any, None]

_PLACE = re.compile(r"(?:^|/)(?:models/(m-[0-9a-f]{32})|([0-9a-f]{32}))/artifacts(?:/+(.*))?$")


class Place(NamedTuple):
    """Where something was written: in a run, or in a logged model of it."""

    run: MirroredRun
    path: str
    model: str | None


def place_of(repository: Any, *parts: str | None) -> Place | None:
    """Where ``parts`` of a path are, if that belongs to a run that is ours to mirror."""
    path = posixpath.join(*(part.strip("/") for part in parts if part), "").rstrip("/")
    below = _PLACE.search(str(repository.artifact_uri).partition("?")[0].rstrip("/"))
    found = below or _PLACE.search(path)
    if found is None:
        return None
    model, run_id, rest = found.groups()
    mirror = of_this_process()
    run = mirror.run_of_model(None, model) if model else mirror.run(None, run_id)
    inside = posixpath.join(rest or "", path) if below else rest or ""
    return None if run is None else Place(run, inside.rstrip("/"), model)


def log_artifact(repository: Any, local_file: Any, artifact_path: str | None = None) -> Steps:
    name = os.path.basename(local_file)
    place = place_of(repository, artifact_path, name)
    if place is not None and not _in_a_folder_under_way(repository, Path(local_file), place.path):
        path = posixpath.join(artifact_path or "", name)
        if not hasattr(repository, "log_artifact_from_stream"):
            # Versions of MLflow without it write over a file that is there.
            _detach(repository, path)
        yield None
        _append(repository, place, Path(local_file), path)


def log_artifacts(repository: Any, local_dir: Any, artifact_path: str | None = None) -> Steps:
    place = place_of(repository, artifact_path)
    if place is None:
        return
    folder = Path(local_dir).absolute()
    for path in _paths(folder, artifact_path):
        _detach(repository, path)
    under_way = _folders(repository)
    under_way.append((folder, place.path))
    try:
        yield None
    finally:
        under_way.remove((folder, place.path))
    for path, file in _paths(folder, artifact_path).items():
        inside = file.relative_to(folder).as_posix()
        there = place._replace(path=posixpath.join(place.path, inside))
        _append(repository, there, file, path)


def _paths(folder: Path, artifact_path: str | None) -> dict[str, Path]:
    """The files of a folder by their path in the repository that it goes to."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    below = artifact_path or ""
    return {posixpath.join(below, file.relative_to(folder).as_posix()): file for file in files}


def _detach(repository: Any, path: str) -> None:
    """Before MLflow writes over its own copy of a file in place: a second name that the journal
    has for it keeps the content of its moment."""
    if not hasattr(repository, "artifact_dir"):
        return
    stored = Path(repository.artifact_dir, path)
    if stored.is_file() and stored.stat().st_nlink > 1:
        alone = stored.with_name(f".{stored.name}.{uuid.uuid4().hex}")
        try:
            shutil.copy2(stored, alone)
            os.replace(alone, stored)
        finally:
            alone.unlink(missing_ok=True)


def _folders(repository: Any) -> list[tuple[Path, str]]:
    """The folders that are being uploaded with ``repository``, each with its path in the run."""
    folders: list[tuple[Path, str]] = repository.__dict__.setdefault("_mlflow_wandb_folders", [])
    return folders


def _in_a_folder_under_way(repository: Any, file: Path, path: str) -> bool:
    """Whether a repository uploads a folder's files by its own `log_artifact`, in threads that do
    not know of the call that they are part of."""
    for folder, below in list(_folders(repository)):
        with contextlib.suppress(ValueError):
            inside = file.absolute().relative_to(folder).as_posix()
            if posixpath.join(below, inside) == path:
                return True
    return False


def _append(repository: Any, place: Place, local: Path, path: str) -> None:
    """Journal a file, from the repository's own copy of it where that is a file here."""
    if hasattr(repository, "artifact_dir"):
        stored = Path(repository.artifact_dir, path)
        if stored.is_file():
            place.run.file(stored, place.path, place.model, stored=True)
            return
    place.run.file(local, place.path, place.model)


def delete_artifacts(repository: Any, artifact_path: str | None = None) -> Steps:
    place = place_of(repository, artifact_path)
    if place is not None:
        yield None
        place.run.append("unfile", path=place.path, model=place.model)


def log_artifact_from_stream(
    repository: Any, stream: Any, artifact_file_name: str, artifact_path: str | None = None
) -> Steps:
    place = place_of(repository, artifact_path, os.path.basename(artifact_file_name))
    if place is not None:
        with Copy(place) as copy:
            yield Changed((_Tee(stream, copy), artifact_file_name, artifact_path), {})
            copy.journal()


def log_artifact_from_async_stream(
    repository: Any, chunks: Any, artifact_file_name: str, artifact_path: str | None = None
) -> Steps:
    place = place_of(repository, artifact_path, os.path.basename(artifact_file_name))
    if place is not None:
        with Copy(place) as copy:
            yield Changed((_teed(chunks, copy), artifact_file_name, artifact_path), {})
            copy.journal()


def complete_multipart_upload(repository: Any, local_file: Any, *args: Any, **kwargs: Any) -> Steps:
    """The parts went from the client to the storage: this process has not seen them."""
    artifact_path = kwargs.get("artifact_path", args[2] if len(args) > 2 else None)
    place = place_of(repository, artifact_path, os.path.basename(local_file))
    if place is not None:
        yield None
        what = f"file {place.path}: its parts went past the server, straight to the storage"
        place.run.append("lost", what=what, count=1)


class Copy:
    """What passes through a stream, kept for W&B. A copy that fails costs the reader nothing, and
    one of an upload that fails goes."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._error: OSError | None = None
        self._journalled = False
        self._file: Any = None

    def write(self, data: bytes) -> None:
        if self._error is None:
            try:
                self._file = self._file or self._place.run.new_file()
                self._file.write(data)
            except OSError as error:
                self._error = error

    def journal(self) -> None:
        """All has passed: the file is a file of the run."""
        self.write(b"")
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            self._error = self._error or error
        if self._error is None:
            self._journalled = True
            self._place.run.kept(self._file.name, self._place.path, self._place.model)
        else:
            reason = self._error.strerror or str(self._error)
            self._place.run.append("lost", what=f"file {self._place.path}: {reason}", count=1)

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None and not self._journalled:
            with contextlib.suppress(OSError):
                self._file.close()
                Path(self._file.name).unlink()


class _Tee:
    """A stream whose reader leaves a copy."""

    def __init__(self, stream: Any, copy: Copy) -> None:
        self._stream, self._copy = stream, copy

    def read(self, *size: int) -> Any:
        data = self._stream.read(*size)
        self._copy.write(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


async def _teed(chunks: AsyncIterable[bytes], copy: Copy) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        copy.write(chunk)
        yield chunk


OPERATIONS: dict[str, Operation] = {
    "log_artifact": log_artifact,
    "log_artifacts": log_artifacts,
    "delete_artifacts": delete_artifacts,
    "log_artifact_from_stream": log_artifact_from_stream,
    "log_artifact_from_async_stream": log_artifact_from_async_stream,
    "complete_multipart_upload": complete_multipart_upload,
}
