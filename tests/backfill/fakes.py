"""A source and a target in memory that implement the real interfaces."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_wandb_plugin.core.identity import TO_THE_END, Origin, Twin
from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Checkpoint,
    FileRef,
    Item,
    RowObjects,
    RunInfo,
    Selection,
    Series,
    Size,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.protocols import Source, Target


def run_info(run_id: str = "r1", **fields: Any) -> RunInfo:
    known: dict[str, Any] = {"segments": ("seg",), "state": "finished", "name": f"run {run_id}"}
    return RunInfo(run_id, "unit", **(known | fields))


class MemorySource(Source):
    """Runs and their items; an item that is an exception is raised when its turn comes."""

    def __init__(self, runs: Mapping[str, list[Item | Exception]] | None = None) -> None:
        self.items = dict(runs or {})
        self.reads: list[tuple[str, Mapping[str, int]]] = []

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        for run_id in self.items:
            yield run_info(run_id)

    def size(self, run: RunInfo) -> Size:
        series = [item for item in self.items[run.run_id] if isinstance(item, Series)]
        return Size(points=sum(len(item.values) for item in series))

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        self.reads.append((run.run_id, dict(since)))
        for item in self.items[run.run_id]:
            if isinstance(item, Exception):
                raise item
            yield item


@dataclass
class MemoryWriter:
    """Remembers each call in order."""

    run_id: str
    position: Mapping[str, int] = field(default_factory=dict)
    losses: Mapping[str, int] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    twin: Twin | None = None

    def update(self, info: RunInfo) -> None:
        self.calls.append(("update", info))

    def append(self, series: Series) -> None:
        self.calls.append(("append", series))

    def add(self, item: FileRef | ArtifactRef | RowObjects) -> None:
        self.calls.append(("add", item))

    def record_loss(self, unreadable: UnreadableRange) -> None:
        self.calls.append(("lose", unreadable))

    @property
    def experiment_id(self) -> str:
        return ""

    def restart(self, complete: bool) -> Mapping[str, int]:
        return {}

    def checkpoint(self, mark: Checkpoint) -> None:
        self.calls.append(("checkpoint", mark))

    def finish(self, info: RunInfo, complete: bool) -> None:
        self.calls.append(("finish", (info, complete)))

    def close(self) -> None:
        self.calls.append(("close", None))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class MemoryTarget(Target):
    """Twins by run id; what is opened becomes a writer, and a complete twin once finished."""

    def __init__(self, twins: Mapping[str, Twin] | None = None) -> None:
        self.twins = dict(twins or {})
        self.writers: dict[str, MemoryWriter] = {}
        self.trouble: dict[str, Exception] = {}
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def find(self, info: RunInfo) -> Twin | None:
        if info.run_id in self.trouble:
            raise self.trouble[info.run_id]
        return self.twins.get(info.run_id)

    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> MemoryWriter:
        position = dict(twin.position) if twin is not None else {}
        writer = MemoryWriter(f"mlflow-{info.run_id}", position, twin=twin)
        self.writers[info.run_id] = writer
        return writer


def complete_twin(origin: str = "backfill", **fields: Any) -> Twin:
    known: dict[str, Any] = {
        "run_id": "m", "experiment_id": "1", "origin": origin, "state": "complete",
        "position": {"seg": TO_THE_END}, "rows": {},
    }  # fmt: skip
    return Twin(**(known | fields))
