"""Reads an archive: its runs as their own source gave them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mlflow_wandb_plugin.archive.codec import decode_row
from mlflow_wandb_plugin.archive.file_store import INDEX, file_bytes, read_files
from mlflow_wandb_plugin.archive.points_table import (
    FOLDERS,
    Kind,
    part_name,
    part_numbers,
    read_part,
)
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
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.errors import SourceError


class ArchiveSource(Source):
    """A `Source` over an archive, or over what one of its folders holds.

    Args:
        root: the archive.
        path: the archive, or an entity's, project's or run's folder in it; absolute.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self._path = path
        self._folders: dict[tuple[str, str, str], Path] = {}
        self.unreadable: list[UnreadableRange] = []
        """Runs that cannot be listed, by their folder."""

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """Yield runs by the time they started; one description is in memory at a time.

        Raises:
            SourceError: there is no run here.
        """
        self.unreadable = []
        started: list[tuple[int, str]] = []
        for folder in self._run_folders():
            run = self._read(folder)
            if run is not None:
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
        folder = self._folder(run)
        document = read_run(folder)
        try:
            points = 0 if document is None else sum(document.points.values())
            return Size(points, file_bytes(folder))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise SourceError(f"{folder / INDEX} is damaged: {error!r}") from error

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        """Yield the run as its own source did, with that source's marks: a target that was filled
        from either can go on from the other."""
        folder = self._folder(run)
        document = read_run(folder)
        if document is None:
            raise SourceError(f"{folder / RUN_FILE} is gone")
        reading = _RunReading(folder, document, dict(since))
        yield from reading.items()

    def _folder(self, run: RunInfo) -> Path:
        key = (run.entity, run.project, run.run_id)
        return self._folders.get(key) or run_folder(self._root, run)

    def _run_folders(self) -> Iterator[Path]:
        depth = 3 - len(self._path.relative_to(self._root).parts)
        pattern = "/".join(["*"] * depth + [RUN_FILE])
        for file in sorted(self._path.glob(pattern)):
            yield file.parent

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
        before = ArchivedCheckpoint(None, 0)
        for checkpoint in self._run.checkpoints:
            carried = self._carried(checkpoint)
            if not carried:
                yield from self._points("history", before.metrics_parts, checkpoint.metrics_parts)
                yield from self._points("system", before.system_parts, checkpoint.system_parts)
            if not self._carried_whole(checkpoint.segment):
                yield from self._rows(before.rows_bytes, checkpoint.rows_bytes)
            # What stands before a mark has been read; after damage that is not so.
            if checkpoint.segment is not None and not carried and not self._damaged:
                yield Checkpoint(checkpoint.segment, checkpoint.position)
            before = checkpoint
        yield from self._files()
        yield from self._run.earlier_logs
        yield self._info()

    def _points(self, kind: Kind, start: int, end: int) -> Iterator[Item]:
        folder = self._folder / FOLDERS[kind]
        there = [number for number in part_numbers(folder) if start <= number < end]
        for number in there:
            try:
                yield from read_part(self._folder, kind, number)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                path = folder / part_name(number)
                yield self._damage(path, 0, path.stat().st_size, error)
        if len(there) < end - start:
            gone = f"{end - start - len(there)} of its parts are missing"
            yield self._damage(folder, 0, 0, FileNotFoundError(gone))

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
        """A run whose archive is not whole is not the whole run."""
        info = self._run.info
        unfinished = self._run.state != "complete" and info.state != "running"
        return replace(info, missing=info.missing or self._damaged or unfinished)

    def _carried(self, checkpoint: ArchivedCheckpoint) -> bool:
        segment = checkpoint.segment
        if segment is None:
            return False
        if self._carried_whole(segment):
            return True
        since = self._since.get(segment)
        return since is not None and segment not in self._rewound and checkpoint.position <= since

    def _carried_whole(self, segment: str | None) -> bool:
        """A server's log that was carried to its end may have grown since: it is read again."""
        if segment is None or segment == SERVER:
            return False
        return self._since.get(segment.removeprefix("journal:")) == TO_THE_END

    def _damage(self, path: Path, offset: int, length: int, error: Exception) -> UnreadableRange:
        self._damaged = True
        return UnreadableRange(str(path), offset, length, f"{type(error).__name__}: {error}")


def _rewound(checkpoints: list[ArchivedCheckpoint]) -> set[str]:
    """Segments whose positions do not only rise: a position alone says nothing there."""
    highest: dict[str, int] = {}
    rewound: set[str] = set()
    for checkpoint in checkpoints:
        segment = checkpoint.segment
        if segment is not None:
            if checkpoint.position < highest.get(segment, checkpoint.position):
                rewound.add(segment)
            highest[segment] = max(checkpoint.position, highest.get(segment, checkpoint.position))
    return rewound
