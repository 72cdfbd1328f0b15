"""Convert artifact records of a ``.wandb`` file to the model's artifacts."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef
from mlflow_wandb_plugin.wandb_log.local_files import LocalFiles

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import ArtifactRecord, UseArtifactRecord


MANIFEST_BYTES = 512 * 1024 * 1024
"""Bytes that a manifest may have when it is expanded."""
MANIFEST_ENTRIES = 1_000_000


def artifact_ref(record: ArtifactRecord, files: LocalFiles) -> ArtifactRef:
    """Convert a logged artifact; its version is its digest, because the server numbers versions."""
    return ArtifactRef(
        type=record.type,
        name=record.name,
        version=record.digest[:12],
        digest=record.digest,
        description=record.description,
        aliases=tuple(record.aliases),
        metadata=_metadata(record.metadata),
        entries=tuple(_entries(record, files)),
    )


def used_artifact_ref(record: UseArtifactRecord) -> ArtifactRef:
    """Convert an artifact that the run used as an input."""
    name, _, version = record.name.partition(":")
    return ArtifactRef(type=record.type, name=name, version=version or record.id, used=True)


def _metadata(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = text
    return value if isinstance(value, dict) else {"metadata": value}


def _entries(record: ArtifactRecord, files: LocalFiles) -> list[ArtifactEntry]:
    manifest = record.manifest
    if manifest.manifest_file_path and not manifest.contents:
        return _entries_of_manifest_file(Path(manifest.manifest_file_path), files)
    return [
        _entry(files, entry.path, entry.digest, entry.size, entry.local_path, entry.ref)
        for entry in manifest.contents
    ]


def _entries_of_manifest_file(path: Path, files: LocalFiles) -> list[ArtifactEntry]:
    """Read a large manifest, which the SDK keeps in the staging folder as gzipped JSON lines.

    If it cannot be read, it is itself a file that is not read: the artifact is not empty.
    """
    reason = files.refusal(path)
    if not reason:
        try:
            return [_entry_of_row(row, files) for row in _manifest_rows(path)]
        except (OSError, EOFError, ValueError, zlib.error, RecursionError) as error:
            reason = str(error) or type(error).__name__
    return [ArtifactEntry(path.name, "", 0, refused=f"the manifest cannot be read: {reason}")]


def _manifest_rows(path: Path) -> Iterator[Any]:
    """Yield the JSON values of a manifest's lines, up to a size that memory can hold.

    Raises:
        OSError, EOFError, ValueError, zlib.error, RecursionError: it cannot be read, or is larger.
    """
    size = entries = 0
    with gzip.open(path, "rb") as file:
        while line := file.readline(MANIFEST_BYTES):
            size, entries = size + len(line), entries + 1
            if size > MANIFEST_BYTES or entries > MANIFEST_ENTRIES:
                raise ValueError(
                    f"it has more than {MANIFEST_BYTES:,} bytes or {MANIFEST_ENTRIES:,} entries"
                )
            if not line.isspace():
                yield json.loads(line)


def _entry_of_row(row: Any, files: LocalFiles) -> ArtifactEntry:
    if not isinstance(row, dict):
        raise ValueError("a line is no object")
    texts = [row.get(name) or "" for name in ("path", "digest", "local_path", "ref")]
    size = row.get("size") or 0
    if not isinstance(size, int) or not all(isinstance(text, str) for text in texts):
        raise ValueError("a line has values of another type")
    path, digest, local, ref = texts
    return _entry(files, path, digest, size, local, ref)


def _entry(
    files: LocalFiles, path: str, digest: str, size: int, local: str, ref: str
) -> ArtifactEntry:
    """Convert an entry. A reference is not read, whatever else its entry says."""
    if ref or not local:
        return ArtifactEntry(path, digest, size, ref=ref or None)
    refused = files.refusal(Path(local))
    return ArtifactEntry(path, digest, size, None if refused else Path(local), refused=refused)
