"""Compare a run's items with what W&B has: both are collected in W&B's terms, and compared."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mlflow_wandb_plugin.core.file_digests import base64_md5
from mlflow_wandb_plugin.core.identity import Twin
from mlflow_wandb_plugin.core.model import (
    INT64,
    NO_FILE,
    ArtifactRef,
    Checkpoint,
    FileRef,
    Key,
    RowObjects,
    RunInfo,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.protocols import Difference, Side, Source
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.mapping.names import safe_path
from mlflow_wandb_plugin.mapping.to_wandb import STEP_METRIC, artifact_name
from mlflow_wandb_plugin.targets.wandb.replica_folder import (
    WRITTEN_BY_CORE,
    is_version,
    manifest_digest,
)
from mlflow_wandb_plugin.targets.wandb.replica_writer import shown_config

Artifact: TypeAlias = tuple[Hashable, ...]
"""What identifies an artifact: first its type, its name and its digest."""

ONLY_SOURCE: Side = "source"
ONLY_TARGET: Side = "target"
SHOWN_POINTS = 20
"""Points of one metric that are described; the others are counted."""
STATES = ("finished", "running")
"""States that W&B keeps; every other one becomes failed, by the exit code."""


@dataclass(slots=True)
class Columns:
    """Points of one key."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    times_ms: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def extend(self, series: Series, with_steps: bool) -> None:
        steps = series.steps if with_steps else (0,) * len(series.values)
        self.steps.extend(map(int, steps))
        self.times_ms.extend(map(int, series.timestamps_ms))
        self.values.extend(map(float, series.values))


class CollectedRun:
    """A `RunWriter` that keeps a run's points, and digests of the rest."""

    run_id = experiment_id = ""
    position: Mapping[str, int] = {}

    def __init__(self) -> None:
        self.losses: Counter[str] = Counter()
        self.info = RunInfo("", "")
        self.points: dict[Key, Columns] = {}
        self.system: dict[Key, Columns] = {}
        self.objects: dict[tuple[int, Key], str] = {}
        self.files: dict[str, str] = {}
        self.artifacts: Counter[Artifact] = Counter()
        self.used: Counter[Artifact] = Counter()

    def update(self, info: RunInfo) -> None:
        self.info = info

    def append(self, series: Series) -> None:
        history = series.kind == "history"
        kept = self.points if history else self.system
        kept.setdefault(series.key, Columns()).extend(series, history)

    def add(self, item: FileRef | ArtifactRef | RowObjects) -> None:
        if isinstance(item, RowObjects):
            for key, value in item.values.items():
                self.objects[item.step, key] = _text(value)
        elif isinstance(item, ArtifactRef):
            (self.used if item.used else self.artifacts)[_artifact(item)] += 1
        elif item.path not in WRITTEN_BY_CORE and item.local != NO_FILE and item.local.is_file():
            self.files[safe_path(item.path)] = base64_md5(item.local)

    def record_loss(self, unreadable: UnreadableRange) -> None:
        self.losses[unreadable.unit] += unreadable.length

    def restart(self, complete: bool) -> Mapping[str, int]:
        return {}

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Nothing is written."""

    def finish(self, info: RunInfo, complete: bool) -> None:
        self.info = info

    def close(self) -> None:
        """Nothing is open."""


def _artifact(item: ArtifactRef) -> Artifact:
    """What identifies the content of an artifact; servers number versions as they arrive."""
    entries = tuple(sorted((entry.path, entry.digest, entry.ref or "") for entry in item.entries))
    aliases = tuple(sorted(alias for alias in item.aliases if not is_version(alias)))
    about = _text(item.metadata)
    name = artifact_name(item.name)
    if item.used:
        digest = manifest_digest(item.entries) if item.entries else item.digest
        return item.type, name, digest
    digest = manifest_digest(item.entries)
    return item.type, name, digest, item.description, about, aliases, entries


class WandbRunComparison(CollectedRun):
    """A `RunComparison` of a source's items with a run of a W&B server.

    Args:
        source: the project that has the run.
    """

    def __init__(self, twin: Twin, source: Source) -> None:
        super().__init__()
        self.checked: Counter[str] = Counter()
        self.differences: list[Difference] = []
        self._twin = twin
        self._source = source
        self._secrets = Secrets.of_setting()

    def differs(self, difference: Difference | None) -> None:
        if difference is not None:
            self.differences.append(difference)

    def compare(self) -> None:
        entity, _, project = self._twin.experiment_id.partition("/")
        there = CollectedRun()
        read = replicate(self._source.read(RunInfo(self._twin.run_id, project, entity), {}), there)
        for unreadable in read.unreadable:
            self.differs(Difference(f"in W&B: {unreadable}"))
        self._compare_descriptions(there.info)
        if self._twin.origin == "dual":
            # The mirror numbered the rows by calls, the source's items by time.
            for points in (self.points, there.points):
                _use_mlflow_steps(points)
        self._compare_points("metric", self.points, there.points)
        self._compare_points("system metric", self.system, there.system)
        self._compare_mappings("row", _by_text(self.objects), _by_text(there.objects))
        self._compare_mappings("file", self.files, there.files)
        self._compare_artifacts("artifact", self.artifacts, there.artifacts)
        self._compare_artifacts("used artifact", self.used, there.used)

    def _compare_descriptions(self, there: RunInfo) -> None:
        here = self.info
        if here.sweep_id:
            self.losses["sweep"] = 1
        for name in ("name", "notes", "group", "job_type"):
            self._compare_values(name, getattr(here, name), getattr(there, name))
        self._compare_values("tags", sorted(set(here.tags)), sorted(set(there.tags)))
        state = here.state if here.state in STATES else "failed"
        self._compare_values("state", state, there.state)
        self._compare_mappings(
            "config", shown_config(here, self._secrets), shown_config(there, Secrets("off"))
        )
        self._compare_mappings("summary", here.summary, there.summary)
        if here.started_ms is not None and here.started_ms != there.started_ms:
            reason = "W&B's server notes when it was told of a run"
            self.differs(Difference("the run's creation", by_design=reason, fixable=False))

    def _compare_values(self, what: str, wanted: Any, found: Any) -> None:
        self.checked["descriptions"] += 1
        if _text(wanted) != _text(found):
            self.differs(Difference(f"{what} is {found!r}, not {wanted!r}"))

    def _compare_mappings(
        self, what: str, wanted: Mapping[str, Any], found: Mapping[str, Any]
    ) -> None:
        self.checked[f"{what}s"] += len(wanted)
        for key in sorted(wanted.keys() | found.keys()):
            if key not in found:
                self.differs(Difference(f"{what} {key} is not in W&B"))
            elif key not in wanted:
                self.differs(_only_in_wandb(f"{what} {key}"))
            elif _text(wanted[key]) != _text(found[key]):
                self.differs(Difference(f"{what} {key} has another value in W&B", fixable=True))

    def _compare_points(
        self, what: str, wanted: Mapping[Key, Columns], found: Mapping[Key, Columns]
    ) -> None:
        for key in sorted(wanted.keys() | found.keys()):
            first, second = wanted.get(key, Columns()), found.get(key, Columns())
            self.checked["points"] += len(first.values)
            missing, extra = different_points(first, second)
            name = f"{what} {'.'.join(key)}"
            for number, there, side in (
                (missing, "is not in W&B", ONLY_SOURCE), (extra, "is in W&B alone", ONLY_TARGET),
            ):  # fmt: skip
                for step, at_ms, value in number[:SHOWN_POINTS]:
                    text = f"{name}: point {value} at step {step}, time {at_ms} ms {there}"
                    self.differs(Difference(text, "", number is missing, only_in=side))
                if len(number) > SHOWN_POINTS:
                    more = len(number) - SHOWN_POINTS
                    text = f"{name}: {more} more points: each {there}"
                    self.differs(Difference(text, "", number is missing, more, side))

    def _compare_artifacts(
        self, what: str, wanted: Counter[Artifact], found: Counter[Artifact]
    ) -> None:
        self.checked[f"{what}s"] += wanted.total()
        for artifact in wanted - found:
            self.differs(Difference(f"{what} {_name(artifact)} is not in W&B as it was logged"))
        for artifact in found - wanted:
            # What a run uses is logged by it where no other run has logged it.
            if artifact[:3] in self.used:
                continue
            self.differs(_only_in_wandb(f"{what} {_name(artifact)}"))


def _only_in_wandb(what: str) -> Difference:
    return Difference(f"{what} is in W&B alone", fixable=False, only_in=ONLY_TARGET)


def _use_mlflow_steps(points: dict[Key, Columns]) -> None:
    """Put MLflow's steps, a key of the rows, in the place of the rows' numbers."""
    steps = points.pop((STEP_METRIC,), Columns())
    pairs = zip(steps.steps, steps.values, strict=True)
    by_row = {row: int(step) for row, step in pairs if abs(step) < INT64}
    for columns in points.values():
        columns.steps = array("q", (by_row.get(row, 0) for row in columns.steps))


def different_points(
    wanted: Columns, found: Columns
) -> tuple[list[tuple[int, int, float]], list[tuple[int, int, float]]]:
    """Return the points that only the first has, and those that only the second has, by step."""
    import numpy as np

    sides = [_rows(wanted), _rows(found)]
    if sides[0].shape == sides[1].shape and bool((sides[0] == sides[1]).all()):
        return [], []
    counts = [Counter(map(tuple, side.tolist())) for side in sides]
    lists = []
    for one, other in (counts, counts[::-1]):
        alone = sorted((one - other).elements())
        bits = np.array([point[2] for point in alone], "i8").view("f8").tolist()
        lists.append(
            [(point[0], point[1], value) for point, value in zip(alone, bits, strict=True)]
        )
    return lists[0], lists[1]


def _rows(columns: Columns) -> Any:
    """Points in order, with the bits of their values; all NaNs and both zeros are one value."""
    import numpy as np

    values = np.array(columns.values, "f8") + 0.0
    values[np.isnan(values)] = np.nan
    rows = np.empty((len(values), 3), "i8")
    rows[:, 0] = np.array(columns.steps, "i8")
    rows[:, 1] = np.array(columns.times_ms, "i8")
    rows[:, 2] = values.view("i8")
    return rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]


def _text(value: Any) -> str:
    """Return a value as JSON; whole numbers have one form, because JSON has one kind of number."""
    return json.dumps(_plain(value), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(below) for below in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _by_text(objects: Mapping[tuple[int, Key], str]) -> dict[str, str]:
    return {f"{step} {'.'.join(key)}": text for (step, key), text in objects.items()}


def _name(artifact: Artifact) -> str:
    return f"{artifact[0]} {artifact[1]}"
