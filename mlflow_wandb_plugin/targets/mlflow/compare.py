"""Compares an MLflow run with what a backfill would write into it now, value by value.

The run is written once more by the backfill's own writer, through a client that compares instead of
writing: what would have to be changed is a difference.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
import threading
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.point_blocks import Points, stored
from mlflow_wandb_plugin.targets.mlflow.run_client import Metrics, Params, RunClient, Tags
from mlflow_wandb_plugin.targets.mlflow.run_writer import MlflowRunWriter

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Param, Run, RunTag

KEPT_DIFFERENCES = 100
DECISIVE = (identity.RUN_ID, identity.STEP_METRIC)
"""Tags that decide how a run is written; the other tags are compared."""
PROGRESS_TAGS = "wandb.sync."
"""Begins the tags that say how far a run is replicated, which are not compared."""


class RunComparison(MlflowRunWriter):
    """A `RunWriter` that writes nothing and finds what differs.

    Attributes:
        checked: how many points, params, tags and files were compared, by kind.
        differences: one line each, the first `KEPT_DIFFERENCES`; `count` is the number of all.
    """

    def __init__(self, client: Client, run: Run, info: RunInfo, secrets: Secrets) -> None:
        from mlflow.entities import Run, RunData, RunTag

        self.checked: Counter[str] = Counter()
        self.differences: list[str] = []
        self.count = 0
        self._lock = threading.Lock()
        self._collected = _CollectedPoints()
        comparing = copy.copy(client)
        comparing.client = _ComparingClient(client.mlflow, run, self)
        decisive = [RunTag(key, run.data.tags[key]) for key in DECISIVE if key in run.data.tags]
        empty = Run(run.info, RunData(tags=decisive))
        super().__init__(comparing, empty, info, None, secrets, self._collected)

    def finish(self, info: RunInfo, complete: bool) -> None:
        super().finish(info, complete)
        for name, (values, times, steps) in sorted(self._collected.by_name.items()):
            self._compare_points(name, values, times, steps)

    def differs(self, what: str) -> None:
        """Add a difference. Several threads compare files."""
        with self._lock:
            self.count += 1
            if self.count <= KEPT_DIFFERENCES:
                self.differences.append(what)

    def _compare_points(
        self, name: str, values: Sequence[float], times: Sequence[int], steps: Sequence[int]
    ) -> None:
        wanted = set(zip(steps, times, map(_comparable, values), strict=True))
        try:
            history = self._client.call(self._client.mlflow.get_metric_history, self.run_id, name)
        except RefusedError:
            history = []
        there = {(m.step, m.timestamp, _comparable(m.value)) for m in history}
        self.checked["points"] += len(wanted)
        for step, at, value in sorted(wanted - there, key=lambda point: point[:2]):
            self.differs(f"metric {name}: no point {value} at step {step}, time {at} ms")
        extra = len(there - wanted)
        if extra:
            self.checked["points of MLflow alone"] += extra


class _CollectedPoints:
    """A `BulkWriter` that keeps the points in memory."""

    backs_off = True

    def __init__(self) -> None:
        self.by_name: dict[str, tuple[array[float], array[int], array[int]]] = {}

    def write(self, run_id: str, blocks: Sequence[Points]) -> None:
        for points in blocks:
            columns = self.by_name.setdefault(points.name, (array("d"), array("q"), array("q")))
            columns[0].extend(points.values)
            columns[1].extend(points.timestamps_ms)
            columns[2].extend(points.steps)

    def fits(self, blocks: Sequence[Points]) -> bool:
        return True


class _ComparingClient(RunClient):
    """Compares what would be written with what is there."""

    def __init__(self, client: MlflowClient, run: Run, result: RunComparison) -> None:
        super().__init__(client)
        self._run = run
        self._result = result

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        if name is not None and name != self._run.info.run_name:
            self._result.differs(f"the run's name is {self._run.info.run_name!r}, not {name!r}")

    def set_terminated(self, run_id: str, status: str, end_ms: int | None) -> None:
        info = self._run.info
        self._result.checked["status"] += 1
        if info.status != status:
            self._result.differs(f"the run's status is {info.status}, not {status}")
        if end_ms is not None and info.end_time != end_ms:
            self._result.differs(f"the run's end is {info.end_time} ms, not {end_ms} ms")

    def delete_tag(self, run_id: str, key: str) -> None:
        """Only tags are removed that the comparison does not take from the run."""

    def log_inputs(self, run_id: str, datasets: Sequence[DatasetInput]) -> None:
        inputs = self._run.inputs.dataset_inputs if self._run.inputs else ()
        there = {(known.dataset.name, known.dataset.digest) for known in inputs}
        for wanted in datasets:
            self._result.checked["inputs"] += 1
            if (wanted.dataset.name, wanted.dataset.digest) not in there:
                self._result.differs(f"no input {wanted.dataset.name}")

    def log_batch(
        self, run_id: str, metrics: Metrics = (), params: Params = (), tags: Tags = ()
    ) -> None:
        # Only points that MLflow refuses come here: losses of the backfill, not differences.
        self._compare("param", params, self._run.data.params)
        wanted = [tag for tag in tags if not tag.key.startswith(PROGRESS_TAGS)]
        self._compare("tag", wanted, self._run.data.tags)

    def _compare(
        self, kind: str, items: Sequence[Param | RunTag], there: Mapping[str, str]
    ) -> None:
        for item in items:
            self._result.checked[f"{kind}s"] += 1
            if there.get(item.key) != item.value:
                found = _short(there.get(item.key))
                self._result.differs(f"{kind} {item.key} is {found}, not {_short(item.value)}")

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        name = Path(local_path).name
        path = f"{artifact_path}/{name}" if artifact_path else name
        self._result.checked["files"] += 1
        with tempfile.TemporaryDirectory(prefix="mlflow-wandb-verify-") as folder:
            try:
                there = self._client.download_artifacts(run_id, path, folder)
                same = _digest(there) == _digest(local_path)
            except Exception:
                # Each store has its own errors for a file that is not there.
                self._result.differs(f"no file {path}")
                return
        if not same:
            self._result.differs(f"file {path} has another content")


def _comparable(value: float) -> float | str:
    """A value as SQL stores keep it; NaN equals itself."""
    return "NaN" if value != value else stored(value)


def _digest(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1024 * 1024):
            digest.update(chunk)
    return digest.digest()


def _short(value: str | None) -> str:
    return "absent" if value is None else repr(value if len(value) <= 60 else value[:57] + "…")
