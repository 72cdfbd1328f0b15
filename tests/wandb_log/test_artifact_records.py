"""Artifact records in the model's terms."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import ArtifactRecord, UseArtifactRecord

from mlflow_wandb_plugin.core.model import ArtifactEntry, ArtifactRef
from mlflow_wandb_plugin.wandb_log import artifact_records
from mlflow_wandb_plugin.wandb_log.artifact_records import artifact_ref, used_artifact_ref
from mlflow_wandb_plugin.wandb_log.local_files import LocalFiles

_ROWS = [{"path": f"f{n}", "digest": hashlib.md5(bytes([n])).hexdigest()} for n in range(200)]
GZIPPED = gzip.compress("\n".join(map(json.dumps, _ROWS)).encode(), mtime=0)


def record() -> ArtifactRecord:
    return ArtifactRecord(type="model", name="net", digest="0123456789abcdef", aliases=["best"])


def test_an_artifact_with_its_files() -> None:
    """Local copies, references, and entries that have neither."""
    logged = record()
    logged.metadata = json.dumps({"epoch": 3})
    logged.manifest.contents.add(path="a", digest="d", size=5, local_path="/stage/a")
    logged.manifest.contents.add(path="b", digest="e", size=6, ref="s3://x/b")
    assert artifact_ref(logged, LocalFiles()) == ArtifactRef(
        type="model", name="net", version="0123456789ab", digest="0123456789abcdef",
        aliases=("best",), metadata={"epoch": 3},
        entries=(
            ArtifactEntry("a", "d", 5, local=Path("/stage/a")),
            ArtifactEntry("b", "e", 6, ref="s3://x/b"),
        ),
    )  # fmt: skip


def test_a_large_manifest_lies_beside_the_log(tmp_path: Path) -> None:
    """As gzipped JSON lines."""
    rows = [{"path": "a", "digest": "d", "size": 5, "local_path": "/stage/a"}, {"path": "b"}]
    file = tmp_path / "manifest.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    logged = record()
    logged.manifest.manifest_file_path = str(file)
    assert artifact_ref(logged, LocalFiles()).entries == (
        ArtifactEntry("a", "d", 5, local=Path("/stage/a")),
        ArtifactEntry("b", "", 0),
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"not gzip", "gzip"),
        (gzip.compress(b"not json", mtime=0), "Expecting value"),
        (GZIPPED[: len(GZIPPED) // 2], "end-of-stream"),
        (GZIPPED[:200] + bytes(200) + GZIPPED[400:], ""),
        (gzip.compress(b'["a list"]', mtime=0), "a line is no object"),
        (gzip.compress(b'{"path": ["a"]}', mtime=0), "values of another type"),
        (gzip.compress(b'{"path": "a", "size": "big"}', mtime=0), "values of another type"),
        (gzip.compress(b"[" * 100_000, mtime=0), "recursion"),
        (gzip.compress(b'{"path": "a"}\n' * 1001, mtime=0), "more than"),
        (gzip.compress(b" " * 100_001, mtime=0), "more than"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, content: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are unknown: one entry without a file says why."""
    monkeypatch.setattr(artifact_records, "MANIFEST_BYTES", 100_000)
    monkeypatch.setattr(artifact_records, "MANIFEST_ENTRIES", 1000)
    file = tmp_path / "manifest.jsonl.gz"
    if content is not None:
        file.write_bytes(content)
    logged = record()
    logged.manifest.manifest_file_path = str(file)
    (entry,) = artifact_ref(logged, LocalFiles()).entries
    assert (entry.path, entry.local, entry.ref) == ("manifest.jsonl.gz", None, None)
    assert entry.refused.startswith("the manifest cannot be read: ")
    assert reason in entry.refused


@pytest.mark.parametrize("metadata", ["{broken", "[1]", '"text"'])
def test_metadata_that_is_no_object(metadata: str) -> None:
    """It is kept as it is; the artifact is not lost over it."""
    logged = record()
    logged.metadata = metadata
    assert artifact_ref(logged, LocalFiles()).metadata


@pytest.mark.parametrize(
    ("name", "expected"),
    [("set:v3", ("set", "v3")), ("set", ("set", "id")), ("e/p/set:a:b", ("e/p/set", "a:b"))],
)
def test_a_used_artifact(name: str, expected: tuple[str, str]) -> None:
    """Name and version of an input; its id where there is no version."""
    used = used_artifact_ref(UseArtifactRecord(id="id", type="dataset", name=name))
    assert (used.name, used.version, used.type, used.used) == (*expected, "dataset", True)
