"""What a writer would leave in MLflow, recorded instead of written."""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.mapping.documents import (
    ARTIFACTS_DIR,
    CONFIG_FILE,
    LINEAGE_FILE,
    SUMMARY_FILE,
)
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.targets.mlflow.model_copies import ModelCopy
from mlflow_wandb_plugin.targets.mlflow.run_client import Metrics, Params, RunClient, Tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileContent:
    """Size in bytes and SHA-256 of a file; ``text`` is kept of what two descriptions of a
    run may tell differently."""

    size: int
    digest: bytes
    text: str = ""


@dataclass
class PointColumns:
    """Points of one metric: values, Unix ms, steps."""

    values: array[float] = field(default_factory=lambda: array("d"))
    timestamps_ms: array[int] = field(default_factory=lambda: array("q"))
    steps: array[int] = field(default_factory=lambda: array("q"))

    def extend(self, points: Points) -> None:
        """Append points."""
        self.values.extend(points.values)
        self.timestamps_ms.extend(points.timestamps_ms)
        self.steps.extend(points.steps)


@dataclass
class ExpectedRun:
    """An MLflow run as a writer leaves it. A later call replaces what an earlier one wrote."""

    name: str | None = None
    status: str | None = None
    end_ms: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    inputs: dict[tuple[str, str], None] = field(default_factory=dict)
    files: dict[str, FileContent] = field(default_factory=dict)
    points: dict[str, PointColumns] = field(default_factory=dict)
    models: dict[str, tuple[ModelCopy, dict[str, FileContent]]] = field(default_factory=dict)
    """With the content of their files."""


class RecordedPoints:
    """A `BulkWriter` that keeps the points in an `ExpectedRun`."""

    backs_off = True

    def __init__(self, expected: ExpectedRun) -> None:
        self._by_name = expected.points

    def write(self, run_id: str, blocks: Sequence[Points]) -> None:
        for points in blocks:
            self._by_name.setdefault(points.name, PointColumns()).extend(points)

    def fits(self, blocks: Sequence[Points]) -> bool:
        return True


class RecordingClient(RunClient):
    """Keeps what would be written to a run in an `ExpectedRun`, and writes nothing."""

    def __init__(self, client: MlflowClient, expected: ExpectedRun) -> None:
        super().__init__(client)
        self._expected = expected
        self._lock = threading.Lock()

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        if name is not None:
            self._expected.name = name

    def set_terminated(self, run_id: str, status: str, end_ms: int | None) -> None:
        self._expected.status, self._expected.end_ms = status, end_ms

    def delete_tag(self, run_id: str, key: str) -> None:
        self._expected.tags.pop(key, None)

    def log_inputs(self, run_id: str, datasets: Sequence[DatasetInput]) -> None:
        for wanted in datasets:
            self._expected.inputs[wanted.dataset.name, wanted.dataset.digest] = None

    def log_model(self, experiment_id: str, run_id: str, model: ModelCopy) -> None:
        files = {path: content_of(local) for path, local in model.files.items()}
        self._expected.models[model.first_id] = model, files

    def log_batch(
        self, run_id: str, metrics: Metrics = (), params: Params = (), tags: Tags = ()
    ) -> None:
        # Only points that MLflow refuses come here: losses of the backfill, not differences.
        for param in params:
            self._expected.params.setdefault(param.key, param.value)
        self._expected.tags.update((tag.key, tag.value) for tag in tags)

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        name = Path(local_path).name
        content = content_of(Path(local_path))
        with self._lock:
            self._expected.files[f"{artifact_path}/{name}" if artifact_path else name] = content

    def put_text(self, run_id: str, path: str, text: str) -> bool:
        data = text.encode("utf-8")
        described = path in (CONFIG_FILE, SUMMARY_FILE, LINEAGE_FILE)
        kept = text if described or path.startswith(f"{ARTIFACTS_DIR}/") else ""
        content = FileContent(len(data), hashlib.sha256(data).digest(), kept)
        with self._lock:
            self._expected.files[path] = content
        return True


def content_of(path: Path) -> FileContent:
    """Read the size and digest of a local file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileContent(size, digest.digest())
