"""Copy files and artifacts into an archive under safe names, and list them in ``files.json``.

``files.json`` has W&B's name of each file, under which a reader of the archive returns it.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.archive.codec import dumps, loads
from mlflow_wandb_plugin.archive.folder_names import FileNames, folder_name
from mlflow_wandb_plugin.core.atomic_files import write_atomically
from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef, FileRef, UnreadableRange
from mlflow_wandb_plugin.core.private_files import FILE_MODE, open_private, private_folder
from mlflow_wandb_plugin.mapping.documents import artifact_document

INDEX = "files.json"
FILES, ARTIFACTS = "files", "artifacts"
UNFINISHED_COPY = ".copy.tmp"
"""One name, so that the next writer removes what a killed one left."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Copy:
    """A file in the archive, as it was when it was copied.

    Attributes:
        name: name of the original file.
        file: posix path relative to the run's folder; None if there was no readable file to copy.
        size, mtime_ns: bytes and modification time (Unix ns) of the original.
        refused: why the original was not read.
    """

    name: str
    file: str | None
    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    refused: str = ""


class FileWriter:
    """Copies a run's files into its folder, and counts missing ones in ``losses``."""

    def __init__(self, folder: Path, losses: Counter[str]) -> None:
        self._folder = folder
        self._losses = losses
        index = read_index(folder)
        self._files = {item["path"]: _copy(item) for item in index.get("files", ())}
        self._artifacts = {_identity(item): item for item in index.get("artifacts", ())}
        self._names = FileNames(_given_names(self._files, self._artifacts))
        self._changed = False
        (folder / UNFINISHED_COPY).unlink(missing_ok=True)

    def add_file(self, ref: FileRef) -> None:
        """Copy a file of the run."""
        known = self._files.get(ref.path)
        if ref.refused:
            copy = self._not_read(ref.path, known, "file_not_read", ref.refused)
        else:
            copy = self._copied(ref.local, FILES, ref.path, known, "file_missing")
        if copy != known:
            self._files[ref.path] = copy
            self._changed = True

    def add_artifact(self, artifact: ArtifactRef) -> None:
        """Copy the files of an artifact, and describe it in ``files.json``."""
        document = artifact_document(artifact) | {"used": artifact.used}
        before = self._artifacts.get(_identity(document), {})
        known = {item["path"]: _copy(item) for item in before.get("entries", ()) if "name" in item}
        document["entries"] = [
            self._entry(artifact, entry, known.get(entry.path)) for entry in artifact.entries
        ]
        if document != before:
            self._artifacts[_identity(document)] = document
            self._changed = True

    def save(self) -> None:
        """Write ``files.json`` if it has changed since the last call."""
        if self._changed:
            files = [{"path": path, **asdict(copy)} for path, copy in self._files.items()]
            document = {"files": files, "artifacts": list(self._artifacts.values())}
            write_atomically(
                self._folder / INDEX, dumps(document, indent=1), mode=FILE_MODE, sync=True
            )
            self._changed = False

    def _entry(
        self, artifact: ArtifactRef, entry: ArtifactEntry, known: Copy | None
    ) -> dict[str, Any]:
        document = {"path": entry.path, "digest": entry.digest, "bytes": entry.size}
        if entry.ref is not None:
            document["ref"] = entry.ref
        if entry.refused:
            refused = "artifact_file_not_read", entry.refused
            document.update(asdict(self._not_read(entry.path, known, *refused)))
        elif entry.local is not None:
            below = _artifact_folder(artifact.type, artifact.name, artifact.version)
            copy = self._copied(entry.local, below, entry.path, known, "artifact_file_missing")
            document.update(asdict(copy))
        elif entry.ref is None:
            self._losses["artifact_file_missing"] += 1
        return document

    def _not_read(self, path: str, known: Copy | None, loss: str, reason: str) -> Copy:
        """Count a file that the source does not read; returns the known copy if there is one."""
        if known is not None and known.file is not None:
            return known
        copy = Copy(Path(path).name, None, refused=reason)
        if copy != known:
            self._losses[loss] += 1
        return copy

    def _copied(self, local: Path, below: str, path: str, known: Copy | None, loss: str) -> Copy:
        """Copy ``local``; returns the known copy if the file is unchanged or was deleted since."""
        try:
            state = local.stat()
            readable = local.is_file() and os.access(local, os.R_OK)
        except (OSError, ValueError):
            readable = False
        if not readable:
            if known is not None and known.file is not None:
                return known
            self._losses[loss] += 1
            return Copy(local.name, None)
        name = self._names.name(below, path)
        target = self._folder / name
        if known is not None and _unchanged(known, state, target):
            return known
        private_folder(target.parent, below=self._folder)
        size, digest = _copy_file(local, self._folder / UNFINISHED_COPY)
        os.replace(self._folder / UNFINISHED_COPY, target)
        return Copy(local.name, name, size, state.st_mtime_ns, digest)


def _unchanged(known: Copy, state: os.stat_result, target: Path) -> bool:
    return (
        known.file is not None
        and (known.size, known.mtime_ns) == (state.st_size, state.st_mtime_ns)
        and target.is_file()
        and target.stat().st_size == known.size
    )


def _copy_file(source: Path, target: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    with open(source, "rb") as reading, open_private(target, "wb") as writing:
        while block := reading.read(_BLOCK):
            digest.update(block)
            writing.write(block)
            size += len(block)
    return size, digest.hexdigest()


def read_files(folder: Path) -> Iterator[FileRef | ArtifactRef | UnreadableRange]:
    """Yield the files and artifacts of an archived run.

    A file that was missing when the archive was written is yielded as missing. One that the archive
    has lost since, or whose path leads out of the archive, is also reported as damage.

    Raises:
        ValueError, KeyError, TypeError: the index is damaged.
    """
    index = read_index(folder)
    for item in index.get("files", ()):
        local, unreadable = _located(folder, _copy(item))
        if unreadable is not None:
            yield unreadable
        yield FileRef(item["path"], local, item.get("refused", ""))
    for item in index.get("artifacts", ()):
        entries = []
        for entry in item["entries"]:
            refused = entry.get("refused", "")
            named = "name" in entry and not refused
            copy = _located(folder, _copy(entry)) if named else (None, None)
            if copy[1] is not None:
                yield copy[1]
            same = entry["path"], entry["digest"], entry["bytes"]
            entries.append(ArtifactEntry(*same, copy[0], entry.get("ref"), refused))
        yield ArtifactRef(
            item["type"], item["name"], item["version"], item["digest"], item["description"],
            tuple(item["aliases"]), item["metadata"], tuple(entries), item["used"],
        )  # fmt: skip


def file_sizes(folder: Path) -> list[int]:
    """Return the listed size of each copy, in bytes.

    Raises:
        ValueError, KeyError, TypeError: the index is damaged.
    """
    index = read_index(folder)
    entries = (entry for item in index.get("artifacts", ()) for entry in item["entries"])
    return [
        *(int(item["size"]) for item in index.get("files", ())),
        *(int(entry["size"]) for entry in entries if "size" in entry),
    ]


def read_index(folder: Path) -> dict[str, Any]:
    """Read ``files.json``; empty if there is none."""
    path = folder / INDEX
    document: dict[str, Any] = loads(path.read_bytes()) if path.is_file() else {}
    return document


def _located(folder: Path, copy: Copy) -> tuple[Path, UnreadableRange | None]:
    """Return the path of a copy; if it is missing, a path that does not exist, and why."""
    nowhere = folder / ".missing" / Path(copy.name).name
    if copy.file is None:
        return nowhere, None
    path = folder / copy.file
    if not path.resolve().is_relative_to(folder.resolve()):
        where = f"{folder / INDEX}: {copy.file}"
        return nowhere, UnreadableRange(where, 0, 0, "leads out of the archive")
    if not path.is_file() or path.stat().st_size != copy.size:
        why = "the file is missing or has another size"
        return nowhere, UnreadableRange(str(path), 0, copy.size, why)
    return path, None


def _copy(item: Mapping[str, Any]) -> Copy:
    return Copy(
        item["name"],
        item["file"],
        item["size"],
        item.get("mtime_ns", 0),
        item.get("sha256", ""),
        item.get("refused", ""),
    )


def _identity(document: Mapping[str, Any]) -> tuple[str, str, str, bool]:
    return document["type"], document["name"], document["version"], document["used"]


def _artifact_folder(*labels: str) -> str:
    return "/".join((ARTIFACTS, *map(folder_name, labels)))


def _given_names(
    files: Mapping[str, Copy], artifacts: Mapping[tuple[str, str, str, bool], Mapping[str, Any]]
) -> Iterator[tuple[str, str, str]]:
    for path, copy in files.items():
        if copy.file is not None:
            yield FILES, path, copy.file
    for (type_, name, version, _), document in artifacts.items():
        for entry in document["entries"]:
            if entry.get("file") is not None:
                yield _artifact_folder(type_, name, version), entry["path"], entry["file"]
