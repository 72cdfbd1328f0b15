"""One run's folder in an archive: ``run.json``, which says what of the folder counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.archive.codec import (
    dumps,
    info_document,
    info_from,
    loads,
    write_atomically,
)
from mlflow_wandb_plugin.archive.folder_names import folder_name
from mlflow_wandb_plugin.archive.points_table import NOTHING_YET
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.errors import SourceError

RUN_FILE = "run.json"
ROWS_FILE = "rows.jsonl"


@dataclass(frozen=True, slots=True)
class ArchivedCheckpoint:
    """A moment at which all that was read so far was on disk.

    Attributes:
        segment, position: the source's mark; segment is None after the last mark of a session.
        parts: how many parts there were, by kind: those since the checkpoint before belong to
            this one.
        rows_bytes: size of ``rows.jsonl``.
    """

    segment: str | None
    position: int
    metrics_parts: int = 0
    system_parts: int = 0
    rows_bytes: int = 0


@dataclass(slots=True)
class RunDocument:
    """What ``run.json`` holds.

    Attributes:
        logs: the run as it was at the end of each log, each with that log's summary; `info` is
            the run as it is now.
        state: live (a session is at work or was cut off), partial, or complete.
        position, rows: as `identity.Twin` has them.
        points: how many points the parts hold, by folder.
        last: the largest step and time, by folder.
    """

    info: RunInfo
    origin: str
    logs: list[RunInfo] = field(default_factory=list)
    state: str = "live"
    position: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    last: dict[str, tuple[int, int]] = field(default_factory=dict)
    checkpoints: list[ArchivedCheckpoint] = field(default_factory=list)

    @property
    def end(self) -> ArchivedCheckpoint:
        """How far the folder's files count."""
        return self.checkpoints[-1] if self.checkpoints else ArchivedCheckpoint(None, 0)

    @property
    def earlier_logs(self) -> list[RunInfo]:
        """The ends of all logs but the latest, whose end is `info`."""
        return [info for info in self.logs if info.segments[-1:] != self.info.segments[-1:]]

    def log_ended(self, info: RunInfo) -> None:
        """Remember ``info``; what was known of the end of the same log gives way."""
        for at, known in enumerate(self.logs):
            if known.segments[-1:] == info.segments[-1:]:
                self.logs[at] = info
                return
        self.logs.append(info)

    def last_of(self, folder: str) -> tuple[int, int]:
        return self.last.get(folder, NOTHING_YET)

    def save(self, folder: Path) -> None:
        document: dict[str, Any] = {
            "state": self.state,
            "origin": self.origin,
            "position": self.position,
            "rows": self.rows,
            "losses": self.losses,
            "points": self.points,
            "last": {name: list(pair) for name, pair in self.last.items()},
            "checkpoints": [_write_checkpoint(checkpoint) for checkpoint in self.checkpoints],
        }
        document["earlier_logs"] = [info_document(info) for info in self.earlier_logs]
        document["info"] = info_document(self.info)
        write_atomically(folder / RUN_FILE, dumps(document, indent=1))


def read_run(folder: Path) -> RunDocument | None:
    """The run in ``folder``, or None if there is none.

    Raises:
        SourceError: ``run.json`` is damaged.
    """
    path = folder / RUN_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        document = loads(text)
        return RunDocument(
            info=info_from(document["info"]),
            origin=str(document["origin"]),
            logs=[info_from(item) for item in document["earlier_logs"]],
            state=str(document["state"]),
            position=_numbers(document["position"]),
            rows=_numbers(document["rows"]),
            losses=_numbers(document["losses"]),
            points=_numbers(document["points"]),
            last={str(name): (int(a), int(b)) for name, (a, b) in document["last"].items()},
            checkpoints=[_read_checkpoint(item) for item in document["checkpoints"]],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path} is damaged: {error!r}") from error


def run_folder(root: Path, info: RunInfo) -> Path:
    """Where a run is kept: ENTITY/PROJECT/RUN."""
    return root.joinpath(*map(folder_name, (info.entity, info.project, info.run_id)))


def same_run(one: RunInfo, other: RunInfo) -> bool:
    """Whether both are one run. An entity that one side does not know does not part them."""
    if (one.project, one.run_id) != (other.project, other.run_id):
        return False
    return not one.entity or not other.entity or one.entity == other.entity


def _numbers(document: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(number) for name, number in document.items()}


def _write_checkpoint(checkpoint: ArchivedCheckpoint) -> dict[str, Any]:
    return {
        "segment": checkpoint.segment,
        "position": checkpoint.position,
        "metrics_parts": checkpoint.metrics_parts,
        "system_metrics_parts": checkpoint.system_parts,
        "rows_bytes": checkpoint.rows_bytes,
    }


def _read_checkpoint(item: Mapping[str, Any]) -> ArchivedCheckpoint:
    segment = item["segment"]
    return ArchivedCheckpoint(
        None if segment is None else str(segment),
        int(item["position"]),
        int(item["metrics_parts"]),
        int(item["system_metrics_parts"]),
        int(item["rows_bytes"]),
    )
