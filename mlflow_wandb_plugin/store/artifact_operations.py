"""How an artifact repository's methods are mirrored: files of runs and of their logged models.

Each function is a `swap.Operation`. A repository has a URI and no run id. MLflow puts a run's
artifacts in ``…/RUN_ID/artifacts`` and a logged model's in ``…/models/MODEL_ID/artifacts``. These
are in the repository's URI or, on a server that proxies artifacts, in the path to be written.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_wandb_plugin.core.atomic_files import replaced
from mlflow_wandb_plugin.store.mirrored_runs import MirroredRun, current_mirror
from mlflow_wandb_plugin.store.swap import Changed, Operation, Steps, by_name

_ARTIFACTS = re.compile(r"(?:^|/)(?:models/(m-[0-9a-f]{32})|([0-9a-f]{32}))/artifacts(?:/+(.*))?$")


_uploads: weakref.WeakKeyDictionary[Any, list[tuple[Path, str]]] = weakref.WeakKeyDictionary()
"""Folders that are being uploaded by a repository, each with its path in the run."""


class RunPath(NamedTuple):
    """A path in a mirrored run, or in one of its logged models."""

    run: MirroredRun
    path: str
    model: str | None


def find_run_path(repository: Any, *parts: str | None) -> RunPath | None:
    """The run and path that ``parts`` of a repository's path are; None if it is not mirrored."""
    path = posixpath.join(*(part.strip("/") for part in parts if part), "").rstrip("/")
    below = _ARTIFACTS.search(str(repository.artifact_uri).partition("?")[0].rstrip("/"))
    found = below or _ARTIFACTS.search(path)
    if found is None:
        return None
    model, run_id, rest = found.groups()
    mirror = current_mirror()
    store = mirror.stores.store_of(repository)
    if store is None:
        return None
    run = mirror.run_of_model(store, model) if model else mirror.run(store, run_id)
    inside = posixpath.join(rest or "", path) if below else rest or ""
    return None if run is None else RunPath(run, inside.rstrip("/"), model)


def log_artifact(repository: Any, local_file: Any, artifact_path: str | None = None) -> Steps:
    name = os.path.basename(local_file)
    place = find_run_path(repository, artifact_path, name)
    if place is not None and not _is_in_upload(repository, Path(local_file), place.path):
        path = posixpath.join(artifact_path or "", name)
        if not hasattr(repository, "log_artifact_from_stream"):
            # Versions of MLflow without this method overwrite a file in place.
            _detach(repository, path)
        yield None
        _append(repository, place, Path(local_file), path)


def log_artifacts(repository: Any, local_dir: Any, artifact_path: str | None = None) -> Steps:
    place = find_run_path(repository, artifact_path)
    if place is None:
        return
    folder = Path(local_dir).absolute()
    for inside in _files_below(folder):
        _detach(repository, posixpath.join(artifact_path or "", inside))
    uploads = _uploads.setdefault(repository, [])
    uploads.append((folder, place.path))
    try:
        yield None
    finally:
        uploads.remove((folder, place.path))
    for inside in _files_below(folder):
        there = place._replace(path=posixpath.join(place.path, inside))
        _append(repository, there, folder / inside, posixpath.join(artifact_path or "", inside))


def _files_below(folder: Path) -> list[str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file.relative_to(folder).as_posix() for file in files]


def _detach(repository: Any, path: str) -> None:
    """Before MLflow overwrites a stored file in place: replace it by a copy, if it is linked.

    The journal's hard link then keeps the content that the file had when it was journalled.
    """
    stored = _stored_file(repository, path)
    if stored is not None and stored.stat().st_nlink > 1:
        with replaced(stored) as copy:
            shutil.copy2(stored, copy)


def _stored_file(repository: Any, path: str) -> Path | None:
    """The repository's own copy of a file, if that is a local file."""
    if not hasattr(repository, "artifact_dir"):
        return None
    stored = Path(repository.artifact_dir, path)
    return stored if stored.is_file() else None


def _is_in_upload(repository: Any, file: Path, path: str) -> bool:
    """Whether a call of `log_artifact` is part of `log_artifacts` in another thread."""
    for folder, below in list(_uploads.get(repository, ())):
        with contextlib.suppress(ValueError):
            inside = file.absolute().relative_to(folder).as_posix()
            if posixpath.join(below, inside) == path:
                return True
    return False


def _append(repository: Any, place: RunPath, local: Path, path: str) -> None:
    stored = _stored_file(repository, path)
    place.run.add_file(stored or local, place.path, place.model, stored is not None)


def delete_artifacts(repository: Any, artifact_path: str | None = None) -> Steps:
    place = find_run_path(repository, artifact_path)
    if place is not None:
        yield None
        place.run.append("unfile", path=place.path, model=place.model)


def log_artifact_from_stream(
    repository: Any, stream: Any, artifact_file_name: str, artifact_path: str | None = None
) -> Steps:
    return _log_stream(_CopiedStream, repository, stream, artifact_file_name, artifact_path)


def log_artifact_from_async_stream(
    repository: Any, chunks: Any, artifact_file_name: str, artifact_path: str | None = None
) -> Steps:
    return _log_stream(_copied_chunks, repository, chunks, artifact_file_name, artifact_path)


def _log_stream(
    copied: Callable[[Any, StreamCopy], Any], repository: Any, stream: Any, name: str, path: Any
) -> Steps:
    place = find_run_path(repository, path, os.path.basename(name))
    if place is not None:
        with StreamCopy(place) as copy:
            yield Changed((copied(stream, copy), name, path), {})
            copy.journal()


def complete_multipart_upload(repository: Any, local_file: Any, *args: Any, **kwargs: Any) -> Steps:
    """Count the file as lost: the client sent its parts to the storage, not to this process."""
    artifact_path = kwargs.get("artifact_path", args[2] if len(args) > 2 else None)
    place = find_run_path(repository, artifact_path, os.path.basename(local_file))
    if place is not None:
        yield None
        what = f"file {place.path}: the client uploaded its parts to the storage directly"
        place.run.append("lost", what=what, count=1)


class StreamCopy:
    """A copy of a stream that MLflow reads, for W&B.

    An error in writing the copy is journalled and not raised. The copy of an upload that fails is
    deleted.
    """

    def __init__(self, place: RunPath) -> None:
        self._place = place
        self._error: OSError | None = None
        self._file: Any = None

    def write(self, data: bytes) -> None:
        if self._error is None:
            try:
                self._file = self._file or self._place.run.files.open_new(self._place.path)
                self._file.write(data)
            except OSError as error:
                self._error = error

    def journal(self) -> None:
        """At the end of the stream, journal the file."""
        self.write(b"")
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            self._error = self._error or error
        if self._error is None:
            kept, self._file = self._file, None
            self._place.run.add_kept_file(kept.name, self._place.path, self._place.model)
        else:
            reason = self._error.strerror or str(self._error)
            self._place.run.append("lost", what=f"file {self._place.path}: {reason}", count=1)

    def __enter__(self) -> StreamCopy:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
                Path(self._file.name).unlink()


class _CopiedStream:
    """A stream that is copied while it is read."""

    def __init__(self, stream: Any, copy: StreamCopy) -> None:
        self._stream, self._copy = stream, copy

    def read(self, *size: int) -> Any:
        data = self._stream.read(*size)
        self._copy.write(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


async def _copied_chunks(chunks: AsyncIterable[bytes], copy: StreamCopy) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        copy.write(chunk)
        yield chunk


OPERATIONS: dict[str, Operation] = {
    **by_name(log_artifact, log_artifacts, log_artifact_from_stream),
    **by_name(log_artifact_from_async_stream, complete_multipart_upload, delete_artifacts),
}
