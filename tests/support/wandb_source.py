"""The loopback W&B server as a source, and what a source's items amount to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Checkpoint,
    FileRef,
    Item,
    RowObjects,
    RunInfo,
    Selection,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.sources.wandb_server.source import WandbServerSource
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress
from mlflow_wandb_plugin.wandb_api.client import WandbClient
from tests.wandb_server import WandbServer


def source_of(
    server: WandbServer, project: str, run_id: str = "", patience_s: float = 20, **options: Any
) -> WandbServerSource:
    """A source over a project of the loopback server."""
    entity = server.store.user.username
    address = ProjectAddress(server.url, server.url, entity, project, run_id, server.api_key)
    options.setdefault("pauses_s", (0.0, 0.0))
    return WandbServerSource(WandbClient(address, backoff=Backoff(patience_s)), **options)


def only_run(source: WandbServerSource) -> RunInfo:
    (info,) = source.runs(Selection())
    return info


@dataclass
class Read:
    """The items of one run, gathered. Points are (step, timestamp in ms, value) by dotted key."""

    points: dict[str, list[tuple[int, int, float]]] = field(default_factory=dict)
    system: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    objects: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes | None] = field(default_factory=dict)
    artifacts: list[ArtifactRef] = field(default_factory=list)
    contents: dict[str, bytes | None] = field(default_factory=dict)
    marks: list[int] = field(default_factory=list)
    unreadable: list[UnreadableRange] = field(default_factory=list)
    info: RunInfo | None = None

    @property
    def last(self) -> RunInfo:
        assert self.info is not None
        return self.info

    def values(self, key: str) -> dict[int, float]:
        """Value by step; a step that came twice fails the test."""
        found = {step: value for step, _, value in self.points.get(key, ())}
        assert len(found) == len(self.points.get(key, ())), f"{key} has a step twice"
        return found

    @property
    def steps(self) -> list[int]:
        """All steps of which anything was read."""
        steps = {step for points in self.points.values() for step, _, _ in points}
        return sorted(steps | set(self.objects))


def read_run(
    source: WandbServerSource, info: RunInfo | None = None, since: Mapping[str, int] | None = None
) -> Read:
    """Read one run (the only one, if none is named) to its end."""
    return gather(source.read(info or only_run(source), since or {}))


def gather(items: Iterable[Item], into: Read | None = None) -> Read:
    """Sort items out, into a `Read` of the caller's if reading may fail on the way."""
    read = Read() if into is None else into
    for item in items:
        if isinstance(item, Series):
            _add_series(read, item)
        elif isinstance(item, RowObjects):
            named = {".".join(path): value for path, value in item.values.items()}
            assert item.step not in read.objects, f"row {item.step} came twice"
            read.objects[item.step] = named
        elif isinstance(item, FileRef):
            read.files[item.path] = item.local.read_bytes() if item.local.is_file() else None
        elif isinstance(item, ArtifactRef):
            read.artifacts.append(item)
            for entry in item.entries:
                content = None if entry.local is None else entry.local.read_bytes()
                read.contents[f"{item.name}:{item.version}/{entry.path}"] = content
        elif isinstance(item, Checkpoint):
            read.marks.append(item.position)
        elif isinstance(item, UnreadableRange):
            read.unreadable.append(item)
        else:
            read.info = item
    return read


def _add_series(read: Read, series: Series) -> None:
    name = ".".join(series.key)
    columns: Iterator[tuple[int, int, float]] = zip(
        series.steps, series.timestamps_ms, series.values, strict=True
    )
    if series.kind == "system":
        read.system.setdefault(name, []).extend((at, value) for _, at, value in columns)
    else:
        read.points.setdefault(name, []).extend(columns)
