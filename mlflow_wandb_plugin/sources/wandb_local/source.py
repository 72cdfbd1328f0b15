"""Read runs from local folders: ``./wandb``, a run folder, or a ``.wandb`` file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mlflow_wandb_plugin.core.model import (
    FileRef,
    Item,
    Key,
    RowObjects,
    RunInfo,
    Selection,
    Series,
    Size,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.protocols import RunOverview, Source
from mlflow_wandb_plugin.errors import JournalError, SourceError
from mlflow_wandb_plugin.sources.wandb_local.folders import RunLog, find_logs
from mlflow_wandb_plugin.sources.wandb_local.run_log import peek, read_logs
from mlflow_wandb_plugin.wandb_log.framing import FILE_HEADER


class WandbDir(Source):
    """A `Source` of local folders.

    Args:
        path: a folder of run folders (``wandb``), its parent, a run folder, or a file.
        follow_links, recursive: see `SourceOptions`.
    """

    def __init__(self, path: Path, follow_links: bool = False, recursive: bool = False) -> None:
        self.path = path
        self._follow_links = follow_links
        self._recursive = recursive
        self.unreadable: list[UnreadableRange] = []
        """Selected logs that do not name their run; length 0 if nothing was logged, and for what
        is no log."""
        self._logs: dict[tuple[str, str, str], list[RunLog]] = {}
        self._segments: dict[str, RunLog] = {}
        self._peeked: dict[tuple[object, ...], RunInfo] = {}

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """Yield runs by the time of their first log; the logs of one run id are one run.

        Raises:
            SourceError: there are no runs in the folder.
        """
        there = find_logs(self.path, self._recursive)
        if not there.logs:
            raise SourceError(
                f"no W&B runs in {self.path}: pass a wandb folder, a run folder or a .wandb file, "
                "or --recursive to look into all folders below"
            )
        found: dict[tuple[str, str, str], RunInfo] = {}
        self._logs.clear()
        self.unreadable.clear()
        for other, reason in there.others:
            if selection.takes(RunInfo(other.name, project="")):
                self.unreadable.append(UnreadableRange(other.name, 0, 0, f"{other}: {reason}"))
        for log in there.logs:
            try:
                info = self._peek(log)
            except (SourceError, JournalError) as error:
                unreadable = RunInfo(log.segment.partition("-")[2] or log.segment, project="")
                if selection.takes(unreadable):
                    where = (unreadable.run_id, 0, _size(log))
                    self.unreadable.append(UnreadableRange(*where, str(error)))
                continue
            key = (info.entity, info.project, info.run_id)
            self._logs.setdefault(key, []).append(log)
            if (before := found.get(key)) is not None:
                config = {**before.config, **info.config}
                segments = (*before.segments, log.segment)
                info = replace(info, segments=segments, started_ms=before.started_ms, config=config)
            found[key] = info
        ordered = sorted(found.values(), key=lambda info: (info.started_ms or 0, info.run_id))
        for info in reversed(ordered) if selection.newest_first else ordered:
            if selection.takes(info):
                yield info

    def _peek(self, log: RunLog) -> RunInfo:
        """Peek at a log once, unless it has grown: runs are listed and counted."""
        key = (log, _stamp(log.wandb_file), _stamp(log.journal))
        if key not in self._peeked:
            self._peeked[key] = peek(log)
        return self._peeked[key]

    def size(self, run: RunInfo) -> Size:
        """Count points and bytes of files by reading the run."""
        points = 0
        files: set[Path] = set()
        for item in read_logs(self._logs_of(run), {}, follow_links=self._follow_links):
            if isinstance(item, Series):
                points += len(item.values)
            elif isinstance(item, FileRef) and not item.refused:
                files.add(item.local)
        sizes = _sizes(files)
        return Size(points, sum(sizes), files=len(sizes))

    def overview(self, run: RunInfo, with_files: bool) -> RunOverview:
        """Read the run's logs once: rows and keys are in no other place. Files are not opened."""
        keys: set[Key] = set()
        files: set[Path] = set()
        rows = 0
        for item in read_logs(self._logs_of(run), {}, follow_links=self._follow_links):
            if isinstance(item, Series) and item.kind == "history":
                keys.add(item.key)
            elif isinstance(item, RowObjects):
                keys.update(item.values)
            elif isinstance(item, FileRef) and not item.refused:
                files.add(item.local)
            elif isinstance(item, RunInfo):
                rows = sum(item.rows.values())
        sizes = _sizes(files)
        return RunOverview(rows, frozenset(map(".".join, keys)), len(sizes), sum(sizes))

    def point_counts(self, run: RunInfo) -> Mapping[Key, int]:
        """Count the points by reading the run's logs."""
        counts: Counter[Key] = Counter()
        for item in read_logs(self._logs_of(run), {}):
            if isinstance(item, Series) and item.kind == "history":
                counts[item.key] += len(item.values)
        return counts

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        """Yield the run's items after ``since``; see `read_logs`."""
        yield from read_logs(self._logs_of(run), since, follow_links=self._follow_links)

    def _logs_of(self, run: RunInfo) -> list[RunLog]:
        """Return the logs of a run.

        Raises:
            SourceError: the folder does not have all of them.
        """
        logs = self._logs.get((run.entity, run.project, run.run_id))
        if logs is not None:
            return logs
        # Another process has listed the run, perhaps on another machine.
        if not self._segments.keys() >= set(run.segments):
            self._segments = {
                log.segment: log for log in find_logs(self.path, self._recursive).logs
            }
        missing = [segment for segment in run.segments if segment not in self._segments]
        if missing or not run.segments:
            raise SourceError(
                f"{self.path} does not hold {', '.join(missing) or 'a log'} of run {run.path} "
                "here: put the folder on storage that all machines see, at the same path"
            )
        return [self._segments[segment] for segment in run.segments]


def _sizes(files: set[Path]) -> list[int]:
    """Return the sizes of those files that exist."""
    return [file.stat().st_size for file in files if file.is_file()]


def _stamp(file: Path | None) -> tuple[int, int] | None:
    """Size and time of change of a file; None without one."""
    try:
        state = file.stat() if file is not None else None
    except OSError:
        state = None
    return None if state is None else (state.st_size, state.st_mtime_ns)


def _size(log: RunLog) -> int:
    """Bytes after the header of a log."""
    try:
        size = log.wandb_file.stat().st_size if log.wandb_file is not None else 0
    except OSError:
        size = 0
    return max(0, size - len(FILE_HEADER))
