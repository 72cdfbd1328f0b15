"""Write one run into an archive."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mlflow_wandb_plugin.archive.codec import encode_row
from mlflow_wandb_plugin.archive.file_store import INDEX, FileWriter
from mlflow_wandb_plugin.archive.points_table import FOLDERS, NO_POINTS, Kind, PartWriter
from mlflow_wandb_plugin.archive.run_document import (
    ROWS_FILE,
    RUN_FILE,
    ArchivedCheckpoint,
    RunDocument,
    read_run,
)
from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.atomic_files import remove_unfinished
from mlflow_wandb_plugin.core.identity import EVERYTHING, Origin
from mlflow_wandb_plugin.core.locks import try_lock
from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Checkpoint,
    FileRef,
    RowObjects,
    RunInfo,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.private_files import open_fd, open_private, private_folder, writing
from mlflow_wandb_plugin.core.step_axes import merged
from mlflow_wandb_plugin.errors import TargetError

LOCK_FILE = ".lock"


class ArchiveRunWriter:
    """A `RunWriter` for an archive.

    ``run.json`` is replaced at every checkpoint, when everything that it counts is on disk: if the
    process is killed, the folder is as of the last checkpoint.

    Args:
        selection: what the run is written with, see `Twin.selection`. A run that has another one
            is written from its first row on.

    Raises:
        TargetError: the folder cannot be written, another process is writing it, or it holds
            another run.
    """

    def __init__(
        self, folder: Path, run_id: str, info: RunInfo, origin: Origin, selection: str
    ) -> None:
        self.run_id = run_id
        self.losses: Counter[str] = Counter()
        self._folder = folder
        self._selection = selection
        with writing(folder):
            private_folder(folder, below=folder.parents[run_id.count("/")], tighten=True)
            self._lock = open_fd(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
            try:
                if not try_lock(self._lock):
                    raise TargetError(f"another process is writing {folder}")
                self._load(info, origin)
            except BaseException:
                os.close(self._lock)
                raise

    def _load(self, info: RunInfo, origin: Origin) -> None:
        folder = self._folder
        for name in (RUN_FILE, INDEX):
            remove_unfinished(folder / name)
        before = read_run(folder)
        if before is not None and not before.holds(info):
            raise TargetError(f"{folder} holds another run, {before.info.path}, not {info.path}")
        self._before = None if before is None else before.info
        self._run = before or RunDocument(info, origin)
        if before is not None and before.info.selection not in (EVERYTHING, self._selection):
            before.begin_again(keep_rows=self._selection != EVERYTHING)
        self._run.info = self._selected(self._run.info)
        self._run.state = "live"
        end, last = self._run.end, self._run.last
        parts: dict[Kind, int] = {"history": end.metrics_parts, "system": end.system_metrics_parts}
        self._points = {
            kind: PartWriter(folder, kind, count, last.get(FOLDERS[kind], NO_POINTS))
            for kind, count in parts.items()
        }
        self._files = FileWriter(folder, self.losses)
        self._rows = _RowsFile(folder / ROWS_FILE, end.rows_bytes)
        self._open = True
        self._run.save(folder)

    @property
    def experiment_id(self) -> str:
        return ""

    @property
    def position(self) -> Mapping[str, int]:
        return dict(self._run.position)

    def update(self, info: RunInfo) -> None:
        self._run.info = self._merged(info)
        if info.state != "running":
            self._run.log_ended(info)

    def append(self, series: Series) -> None:
        with writing(self._folder):
            self._points[series.kind].append(series)

    def add(self, item: FileRef | ArtifactRef | RowObjects) -> None:
        with writing(self._folder):
            if isinstance(item, RowObjects):
                self._rows.add(item)
            elif isinstance(item, ArtifactRef):
                self._files.add_artifact(item)
            else:
                self._files.add_file(item)

    def record_loss(self, unreadable: UnreadableRange) -> None:
        self.losses[f"damaged_{unreadable.unit}"] += unreadable.length

    def restart(self, complete: bool) -> Mapping[str, int]:
        """Continue after what the archive has: parts are only added."""
        return self.position

    def checkpoint(self, mark: Checkpoint) -> None:
        with writing(self._folder):
            self._close_parts(mark.segment, mark.position)
            self._run.position[mark.segment] = mark.position
            self._files.save()
            self._run.save(self._folder)

    def finish(self, info: RunInfo, complete: bool) -> None:
        with writing(self._folder):
            self._close_parts(None, 0)
            self._files.save()
            run = self._run
            run.info = self._merged(info)
            run.losses = dict(sorted((+self.losses).items()))
            run.rows = identity.joined_rows(run.rows, info.rows)
            if complete:
                run.position = identity.ended(run.position, info.segments)
                run.state = "complete"
            elif info.state != "running":
                run.state = "partial"
            run.save(self._folder)

    def close(self) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(Exception):
                for points in self._points.values():
                    points.abandon()
                self._rows.close()
            os.close(self._lock)

    def _close_parts(self, segment: str | None, position: int) -> None:
        run, end = self._run, self._run.end
        for kind, points in self._points.items():
            if count := points.close_part():
                folder = FOLDERS[kind]
                run.points[folder] = run.points.get(folder, 0) + count
                run.last[folder] = points.last
        history, system = self._points["history"].parts, self._points["system"].parts
        now = ArchivedCheckpoint(segment, position, history, system, self._rows.sync())
        grown = replace(now, segment=None, position=0) != replace(end, segment=None, position=0)
        if not grown and segment is not None and end.segment == segment:
            run.checkpoints[-1] = now
        elif grown or segment is not None:
            run.checkpoints.append(now)

    def _selected(self, info: RunInfo) -> RunInfo:
        return replace(info, selection=self._selection)

    def _merged(self, info: RunInfo) -> RunInfo:
        """Return ``info`` with what an earlier session knew of logs that this one does not have."""
        before = self._before
        info = self._selected(info)
        if before is None:
            return info
        first = {**info.first_config, **before.first_config}
        if set(before.segments) <= set(info.segments):
            return replace(info, first_config=first)
        starts = [ms for ms in (before.started_ms, info.started_ms) if ms is not None]
        return replace(
            info,
            segments=tuple(dict.fromkeys((*before.segments, *info.segments))),
            started_ms=min(starts, default=None),
            first_config=first,
            config={**before.config, **info.config},
            rows=identity.joined_rows(before.rows, info.rows),
            step_definitions=merged(before.step_definitions, info.step_definitions),
        )


class _RowsFile:
    """``rows.jsonl``; a repeated row is not written again."""

    def __init__(self, path: Path, size: int) -> None:
        self._file = open_private(path, "ab")
        self._file.truncate(size)
        self._file.seek(size)
        self.close = self._file.close
        with open(path, "rb") as file:
            self._known = {_digest(line) for line in file}

    def add(self, row: RowObjects) -> None:
        line = encode_row(row).encode() + b"\n"
        digest = _digest(line)
        if digest not in self._known:
            self._known.add(digest)
            self._file.write(line)

    def sync(self) -> int:
        """Write everything to disk; returns the size in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return int(self._file.tell())


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()
