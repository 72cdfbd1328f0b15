"""Read and write ``run.json``, which describes an archived run and which of its files count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.archive.codec import dumps, info_document, info_from, loads
from mlflow_wandb_plugin.archive.folder_names import folder_name
from mlflow_wandb_plugin.core.atomic_files import write_atomically
from mlflow_wandb_plugin.core.identity import ENTITY, PROJECT, RUN_ID, same_run
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.private_files import FILE_MODE
from mlflow_wandb_plugin.errors import SourceError

RUN_FILE = "run.json"
ROWS_FILE = "rows.jsonl"


@dataclass(frozen=True, slots=True)
class ArchivedCheckpoint:
    """A moment at which everything read so far was on disk.

    Attributes:
        segment, position: of the source's checkpoint; segment is None at the end of a session.
        metrics_parts, system_metrics_parts: number of parts by then; those after the previous
            checkpoint belong to this one.
        rows_bytes: size of ``rows.jsonl`` by then.
    """

    segment: str | None
    position: int
    metrics_parts: int = 0
    system_metrics_parts: int = 0
    rows_bytes: int = 0


@dataclass(slots=True)
class RunDocument:
    """The content of ``run.json``.

    Attributes:
        info: the run as it is now.
        logs: the run at the end of each log, with the summary of that log.
        state: live (a session is writing or was interrupted), partial, or complete.
        position, rows: as in `identity.Twin`.
        points: number of points in the parts, by folder.
        last: the largest step and time (Unix ms), by folder.
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
        """The latest checkpoint: what comes after it in the folder does not count."""
        return self.checkpoints[-1] if self.checkpoints else ArchivedCheckpoint(None, 0)

    @property
    def earlier_logs(self) -> list[RunInfo]:
        """The run at the end of all logs but the latest, for which it is `info`."""
        return [info for info in self.logs if info.segments[-1:] != self.info.segments[-1:]]

    def log_ended(self, info: RunInfo) -> None:
        """Add the run at the end of a log, or replace an earlier one of the same log."""
        for at, known in enumerate(self.logs):
            if known.segments[-1:] == info.segments[-1:]:
                self.logs[at] = info
                return
        self.logs.append(info)

    def begin_again(self, keep_rows: bool) -> None:
        """Forget how far the run was read. The points that the parts have are kept.

        Args:
            keep_rows: whether the rows are kept as well. Those of a run of which only some metrics
                were read are parts of those that will come.
        """
        rows_bytes = self.end.rows_bytes if keep_rows else 0
        self.checkpoints = [replace(self.end, segment=None, position=0, rows_bytes=rows_bytes)]
        self.position, self.rows = {}, {}

    def holds(self, info: RunInfo) -> bool:
        """Whether this is the document of run ``info``; see `identity.same_run`."""
        ours = self.info
        tags = {RUN_ID: ours.run_id, PROJECT: ours.project, ENTITY: ours.entity}
        return same_run(info, tags)

    def save(self, folder: Path) -> None:
        """Write ``run.json``."""
        document: dict[str, Any] = {
            "state": self.state,
            "origin": self.origin,
            "position": self.position,
            "rows": self.rows,
            "losses": self.losses,
            "points": self.points,
            "last": {name: list(pair) for name, pair in self.last.items()},
            "checkpoints": [asdict(checkpoint) for checkpoint in self.checkpoints],
            "earlier_logs": [info_document(info) for info in self.earlier_logs],
            "info": info_document(self.info),
        }
        write_atomically(folder / RUN_FILE, dumps(document, indent=1), mode=FILE_MODE, sync=True)


def read_run(folder: Path) -> RunDocument | None:
    """Read the document of the run in ``folder``; None if there is none.

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
    """Return the folder of a run: ENTITY/PROJECT/RUN."""
    return root.joinpath(*map(folder_name, (info.entity, info.project, info.run_id)))


def _numbers(document: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(number) for name, number in document.items()}


def _read_checkpoint(item: Mapping[str, Any]) -> ArchivedCheckpoint:
    segment = None if item["segment"] is None else str(item["segment"])
    names = ("position", "metrics_parts", "system_metrics_parts", "rows_bytes")
    return ArchivedCheckpoint(segment, *(int(item[name]) for name in names))
