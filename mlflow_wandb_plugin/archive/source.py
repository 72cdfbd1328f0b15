"""Read the runs of an archive as their original source returned them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mlflow_wandb_plugin.archive import points_table
from mlflow_wandb_plugin.archive.codec import decode_row
from mlflow_wandb_plugin.archive.file_store import INDEX, file_sizes, read_files
from mlflow_wandb_plugin.archive.run_document import (
    ROWS_FILE,
    RUN_FILE,
    ArchivedCheckpoint,
    RunDocument,
    read_run,
    run_folder,
)
from mlflow_wandb_plugin.core.identity import SERVER, TO_THE_END
from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    Item,
    RunInfo,
    Selection,
    Size,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.protocols import RunOverview, Source
from mlflow_wandb_plugin.errors import SourceError


class ArchiveSource(Source):
    """A `Source` of an archive, or of one of its folders.

    Args:
        root: the archive's folder.
        path: the archive, or an entity's, project's or run's folder in it; absolute.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self._path = path
        self._folders: dict[tuple[str, str, str], Path] = {}
        self.unreadable: list[UnreadableRange] = []
        """Folders of runs that cannot be listed."""

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """Yield runs by the time of their start; only one of them is in memory at a time.

        Raises:
            SourceError: there are no runs in the folder.
        """
        self.unreadable = []
        started: list[tuple[int, str]] = []
        for folder in self._run_folders():
            if (run := self._read(folder)) is not None:
                started.append((run.info.started_ms or 0, str(folder)))
        if not started and not self.unreadable:
            raise SourceError(f"no runs in the archive {self._path}")
        for _, name in sorted(started, reverse=selection.newest_first):
            run = self._read(Path(name))
            if run is not None and selection.takes(run.info):
                info = run.info
                self._folders[info.entity, info.project, info.run_id] = Path(name)
                yield info

    def size(self, run: RunInfo) -> Size:
        """Return the run's listed size."""
        folder = self._folder(run)
        document = read_run(folder)
        try:
            points = 0 if document is None else sum(document.points.values())
            sizes = file_sizes(folder)
            return Size(points, sum(sizes), files=len(sizes))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise SourceError(f"{folder / INDEX} is damaged: {error!r}") from error

    def overview(self, run: RunInfo, with_files: bool) -> RunOverview:
        """Take everything from the run's document and the index of its files."""
        size = self.size(run)
        keys = frozenset(".".join(key) for key in run.last)
        return RunOverview(sum(run.rows.values()), keys, size.files, size.file_bytes)

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        """Yield the run as its original source did, with that source's checkpoints.

        A target can therefore continue from the archive after the source, and the other way round.
        """
        folder = self._folder(run)
        document = read_run(folder)
        if document is None:
            raise SourceError(f"{folder / RUN_FILE} does not exist any more")
        yield from _RunReading(folder, document, dict(since)).items()

    def _folder(self, run: RunInfo) -> Path:
        key = (run.entity, run.project, run.run_id)
        return self._folders.get(key) or run_folder(self._root, run)

    def _run_folders(self) -> Iterator[Path]:
        depth = 3 - len(self._path.relative_to(self._root).parts)
        files = sorted(self._path.glob("*/" * depth + RUN_FILE))
        return (file.parent for file in files)

    def _read(self, folder: Path) -> RunDocument | None:
        try:
            return read_run(folder)
        except (SourceError, OSError) as error:
            name = folder.relative_to(self._root).as_posix()
            self.unreadable.append(UnreadableRange(name, 0, 1, str(error)))
            return None


class _RunReading:
    """Reads one run's folder, checkpoint by checkpoint."""

    def __init__(self, folder: Path, run: RunDocument, since: Mapping[str, int]) -> None:
        self._folder = folder
        self._run = run
        self._since = since
        self._rewound = _rewound(run.checkpoints)
        self._damaged = False

    def items(self) -> Iterator[Item]:
        """Yield what was not copied before, the files, and the run."""
        before = ArchivedCheckpoint(None, 0)
        for checkpoint in self._run.checkpoints:
            copied = self._copied(checkpoint)
            if not copied:
                yield from self._points("history", before.metrics_parts, checkpoint.metrics_parts)
                yield from self._points(
                    "system", before.system_metrics_parts, checkpoint.system_metrics_parts
                )
            if not self._copied_to_the_end(checkpoint.segment):
                yield from self._rows(before.rows_bytes, checkpoint.rows_bytes)
            # A checkpoint means that everything before it was read, which is not so after damage.
            if checkpoint.segment is not None and not copied and not self._damaged:
                yield Checkpoint(checkpoint.segment, checkpoint.position)
            before = checkpoint
        yield from self._files()
        yield from self._run.earlier_logs
        yield self._info()

    def _points(self, kind: points_table.Kind, start: int, end: int) -> Iterator[Item]:
        folder = self._folder / points_table.FOLDERS[kind]
        there = [number for number in points_table.part_numbers(folder) if start <= number < end]
        for number in there:
            try:
                yield from points_table.read_part(self._folder, kind, number)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                path = folder / points_table.part_name(number)
                yield self._damage(path, 0, path.stat().st_size, error)
        if len(there) < end - start:
            reason = f"{end - start - len(there)} of its parts are missing"
            yield self._damage(folder, 0, 0, FileNotFoundError(reason))

    def _rows(self, start: int, end: int) -> Iterator[Item]:
        if start >= end:
            return
        path = self._folder / ROWS_FILE
        at = start
        try:
            with open(path, "rb") as file:
                file.seek(start)
                while at < end and (line := file.readline()):
                    try:
                        yield decode_row(line)
                    except (ValueError, KeyError, TypeError, AttributeError) as error:
                        yield self._damage(path, at, len(line), error)
                    at += len(line)
            if at < end:
                yield self._damage(path, at, end - at, ValueError("the file is too short"))
        except OSError as error:
            yield self._damage(path, at, end - at, error)

    def _files(self) -> Iterator[Item]:
        try:
            for item in read_files(self._folder):
                self._damaged = self._damaged or isinstance(item, UnreadableRange)
                yield item
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield self._damage(self._folder / INDEX, 0, 0, error)

    def _info(self) -> RunInfo:
        """Return the run; it counts as incomplete if its archive is."""
        info = self._run.info
        unfinished = self._run.state != "complete" and info.state != "running"
        return replace(info, missing=info.missing or self._damaged or unfinished)

    def _copied(self, checkpoint: ArchivedCheckpoint) -> bool:
        segment = checkpoint.segment
        since = None if segment is None or segment in self._rewound else self._since.get(segment)
        before = since is not None and checkpoint.position <= since
        return before or self._copied_to_the_end(segment)

    def _copied_to_the_end(self, segment: str | None) -> bool:
        """Whether a log was copied to its end; a server's log may have grown, and is read again."""
        if segment is None or segment == SERVER:
            return False
        return self._since.get(segment.removeprefix("journal:")) == TO_THE_END

    def _damage(self, path: Path, offset: int, length: int, error: Exception) -> UnreadableRange:
        self._damaged = True
        return UnreadableRange(str(path), offset, length, f"{type(error).__name__}: {error}")


def _rewound(checkpoints: list[ArchivedCheckpoint]) -> set[str]:
    """Return the segments whose positions go back, where a position does not identify items."""
    highest: dict[str, int] = {}
    rewound: set[str] = set()
    for checkpoint in checkpoints:
        segment, position = checkpoint.segment, checkpoint.position
        if segment is not None:
            if position < highest.setdefault(segment, position):
                rewound.add(segment)
            highest[segment] = max(position, highest[segment])
    return rewound
