"""Convert artifact records of a ``.wandb`` file to the model's artifacts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef
from mlflow_wandb_plugin.wandb_log.local_files import LocalFiles

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import ArtifactRecord, UseArtifactRecord


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

    If it cannot be read, it is itself reported as a missing file: the artifact is not empty.
    """
    if refused := files.refusal(path):
        return [ArtifactEntry(path.name, "", 0, refused=f"its manifest is not read: {refused}")]
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = [json.loads(line) for line in file if line.strip()]
    except (OSError, EOFError, ValueError):
        return [ArtifactEntry(path=path.name, digest="", size=0)]
    names = ("size", "local_path", "ref")
    return [
        _entry(files, row.get("path", ""), row.get("digest", ""), *map(row.get, names))
        for row in rows
    ]


def _entry(
    files: LocalFiles, path: Any, digest: Any, size: Any, local: Any, ref: Any
) -> ArtifactEntry:
    """Convert an entry. A reference is not read, whatever else its entry says."""
    if ref or not local:
        return ArtifactEntry(path, digest, int(size or 0), ref=ref or None)
    refused = files.refusal(Path(local))
    copy = None if refused else Path(local)
    return ArtifactEntry(path, digest, int(size or 0), copy, refused=refused)
