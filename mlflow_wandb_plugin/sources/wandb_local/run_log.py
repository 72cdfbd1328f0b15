"""Read the logs of one run: its journal, if there is one, and its ``.wandb`` file.

Rows come from the journal, because it survives crashes that the file does not. What only wandb-core
records (system metrics, the machine, the run time at exit) comes from the file. Live replication
reads the same logs while they grow.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from mlflow_wandb_plugin.core.identity import TO_THE_END
from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    Item,
    RunInfo,
    RunState,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.errors import RecordError, SourceError
from mlflow_wandb_plugin.journal import frames
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.journal.reader import JournalReader
from mlflow_wandb_plugin.sources.wandb_local.folders import RunLog, without_removed_journal
from mlflow_wandb_plugin.wandb_log.decoder import BLOCK_POINTS, RunDecoder
from mlflow_wandb_plugin.wandb_log.framing import Frame, LogReader
from mlflow_wandb_plugin.wandb_log.local_files import LocalFiles
from mlflow_wandb_plugin.wandb_log.records import HISTORY, RUN, record_type

RECENT_S = 120
"""Seconds since its last change for which a file counts as open, where /proc does not exist."""
RECORDS_PER_SIZE_CHECK = 64
FIRST_BLOCK_POINTS = 10_000
"""The first block of a log is small, and each one has twice as many points as the one before, up to
`BLOCK_POINTS`: the target writes the first ones while others are decoded."""
# Numbers of Record.record_type. Only core writes stats, output_raw and environment records.
CONFIG, EXIT = 5, 18
_CORE_ONLY = frozenset({7, 13, 26})
_PEEKED = frozenset({CONFIG, RUN, EXIT})


def peek(log: RunLog) -> RunInfo:
    """Read a run's identity, config and state, without decoding its history.

    Raises:
        SourceError, JournalError: the log cannot be read or does not name its run.
    """
    log = without_removed_journal(log)
    decoder = RunDecoder()
    decoder.begin(log.segment)
    if log.wandb_file is not None:
        try:
            for _, payload in chain.from_iterable(LogReader(log.wandb_file).read_many()):
                if record_type(payload) in _PEEKED:
                    with contextlib.suppress(RecordError):
                        decoder.feed(payload)
        except SourceError:
            # Deleted, or never written: a journal is enough.
            if log.journal is None:
                raise
    if log.journal is not None:
        for entry in JournalReader(log.journal).read():
            if entry.kind == frames.RECORD:
                with contextlib.suppress(RecordError):
                    decoder.feed(entry.payload, rows=False)
    info = decoder.info()
    if not info.run_id:
        raise SourceError("the log ends before it names its run: nothing was logged")
    # Without rows it is not known since when a metric is defined so.
    return replace(info, state=_state(log, info.state), step_definitions=())


@dataclass(slots=True)
class Progress:
    """Progress of a growing log.

    Attributes:
        closed: whether the training process has closed its journal.
        broken: whether it could not write all of its journal, such as on a full disk.
        core_done: whether wandb-core has written the run's exit to its file.
    """

    closed: bool = False
    broken: bool = False
    core_done: bool = False


def read_logs(
    logs: list[RunLog],
    since: Mapping[str, int],
    follow: Callable[[Progress], bool] | None = None,
    follow_links: bool = False,
) -> Iterator[Item]:
    """Yield the items of ``logs``, the last of which may still grow, with a `RunInfo` after each.

    Args:
        since: positions that were copied before, by segment or ``journal:SEGMENT``; -1 for all of
            a log.
        follow: called at the end of what is written so far; it waits, and returns whether to read
            on. None: read once.
        follow_links: read every file that the folder and the records name; see `LocalFiles`.
    """
    decoder = RunDecoder()
    state: RunState = "running"
    missing = False
    done: list[RunLog] = []
    for log in map(without_removed_journal, logs):
        reading = _LogReading(log, decoder, since, follow_links)
        yield from reading.run(follow if log.segment == logs[-1].segment else None)
        state = _state(log, decoder.run.state())
        if state != "running" and reading.file_is_more_complete:
            # wandb-core wrote all of its file, the tap not all of its journal: read the file.
            log = replace(log, journal=None)
            decoder = _decoder_after(done)
            reading = _LogReading(log, decoder, since, follow_links)
        yield from reading.finish(over=state != "running")
        done.append(log)
        missing = missing or reading.missing
        ended = None if state == "running" else decoder.run.ended_ms
        yield replace(decoder.info(), state=state, ended_ms=ended, missing=missing)


def _owner(log: Path | None) -> str:
    """Return the name of the user who wrote a log; empty if this machine does not know it."""
    try:
        return "" if log is None else log.owner()
    except (OSError, KeyError):
        return ""


def _decoder_after(logs: list[RunLog]) -> RunDecoder:
    """Return a decoder that has read ``logs``, whose items were yielded before."""
    decoder = RunDecoder()
    for log in logs:
        for _ in _LogReading(log, decoder, {log.segment: TO_THE_END}).finish(over=True):
            pass
    return decoder


class _LogReading:
    """Reads one log through the run's decoder."""

    def __init__(
        self, log: RunLog, decoder: RunDecoder, since: Mapping[str, int], follow_links: bool = False
    ) -> None:
        self._log = log
        self._decoder = decoder
        self._file = None if log.wandb_file is None else LogReader(log.wandb_file)
        self._journal = None if log.journal is None else JournalReader(log.journal)
        self._segment = log.segment if log.journal is None else f"journal:{log.segment}"
        self._since = since.get(self._segment, 0)
        self._copied = since.get(log.segment) == TO_THE_END
        self._rows_from_file = self._journal is None
        self._block_points = FIRST_BLOCK_POINTS
        self._progress = Progress()
        self._files = LocalFiles(log.run_folder, follow_links)
        decoder.begin(log.segment, self._files)
        owner = _owner(log.wandb_file or log.journal)
        if owner:
            # wandb records no user of an offline run.
            decoder.run.facts.setdefault("owner", owner)

    def run(self, follow: Callable[[Progress], bool] | None) -> Iterator[Item]:
        """Yield what is written so far, and what is appended while ``follow`` returns True."""
        yield from self._blocks()
        if follow is None:
            return
        yield replace(self._decoder.info(), state="running", ended_ms=None)
        while follow(self._progress):
            yield from self._blocks()
            if self._decoder.changed:
                yield replace(self._decoder.info(), state="running", ended_ms=None)
        # The training process and core may have written more while ``follow`` waited.
        yield from self._blocks()

    @property
    def file_is_more_complete(self) -> bool:
        """Whether wandb-core recorded the end of the run, and the journal did not."""
        progress = self._progress
        cut_short = progress.broken or not progress.closed
        return self._journal is not None and progress.core_done and cut_short

    @property
    def missing(self) -> bool:
        """Whether records are known to be lost, and are in no other log."""
        return self._journal is not None and self._progress.broken

    def finish(self, over: bool) -> Iterator[Item]:
        """Yield the rest; ``over`` says that the log will not grow any more."""
        yield from self._blocks()
        if over:
            self._decoder.end()
            self._add_rows_missing_in_journal()
            yield from self._block(self._position)
        for reader in (self._file, self._journal):
            if reader is not None:
                if over:
                    reader.finish()
                primary = reader is self._journal or self._journal is None
                yield from (replace(unreadable, lost=primary) for unreadable in reader.unreadable)
        if not self._copied:
            yield from self._files.all_files()

    @property
    def _position(self) -> int:
        if self._journal is not None:
            return self._journal.position
        return 0 if self._file is None else self._file.position

    def _blocks(self) -> Iterator[Item]:
        until = None
        if self._journal is not None:
            # A process notes in the journal that it joins the run before wandb-core has a row of
            # it. What the file gets while the journal is read is left for the next time.
            until = None if self._file is None else self._file.size()
            yield from self._journal_blocks(self._journal)
        if self._file is not None:
            yield from self._file_blocks(self._file, until)

    def _journal_blocks(self, reader: JournalReader) -> Iterator[Item]:
        decoder = self._decoder
        skipping = reader.position < self._since
        for entry in reader.read():
            if entry.kind == frames.RECORD:
                try:
                    decoder.feed(entry.payload, rows=not self._rows_from_file)
                except RecordError as error:
                    reader.unreadable.append(_unreadable(reader.path, entry, error))
            elif entry.kind == frames.NOTE:
                self._apply_note(entry.document())
            crossed = skipping and entry.end >= self._since
            if crossed or decoder.points >= self._block_points:
                yield from self._block(entry.end)
                skipping = entry.end < self._since
        yield from self._block(reader.position)

    def _file_blocks(self, reader: LogReader, until: int | None) -> Iterator[Item]:
        decoder = self._decoder
        try:
            feed = decoder.feed if self._journal is None else self._feed_core_record
            for records in reader.read_many(until):
                for count, (end, payload) in enumerate(records):
                    try:
                        feed(payload)
                    except RecordError as error:
                        frame = Frame(end, payload)
                        reader.unreadable.append(_unreadable(reader.path, frame, error))
                    if not count % RECORDS_PER_SIZE_CHECK and decoder.points >= self._block_points:
                        yield from self._block(end if self._journal is None else self._position)
        except SourceError:
            # Not written yet, or not readable: the journal is enough.
            if self._journal is None:
                raise
        yield from self._block(self._position)

    def _feed_core_record(self, payload: bytes) -> None:
        kind = record_type(payload)
        if kind == EXIT:
            self._decoder.feed_core_exit(payload)
            self._progress.core_done = True
        elif kind in _CORE_ONLY or (kind == HISTORY and self._rows_from_file):
            self._decoder.feed(payload)

    def _add_rows_missing_in_journal(self) -> None:
        """Read the rows of later steps from the file, if the journal was not closed."""
        file = self._log.wandb_file
        if self._journal is None or self._progress.closed or self._rows_from_file:
            return
        last = self._decoder.run.last_step
        for frame in LogReader(file).read() if file is not None and file.is_file() else ():
            if record_type(frame.payload) == HISTORY:
                self._decoder.feed_row_after(last, frame.payload)

    def _apply_note(self, note: Mapping[str, object]) -> None:
        """Apply a note of the tap.

        If several processes share the run, or TensorBoard feeds it, only wandb-core knows the rows:
        they are read from its file.
        """
        if note.get("rows_from_file") and not self._rows_from_file:
            self._rows_from_file = True
            self._decoder.drop_pending_row()
        if note.get("shared"):
            self._decoder.set_shared_mode()
        self._progress.closed = self._progress.closed or bool(note.get("closed"))
        self._progress.broken = self._progress.broken or bool(note.get("broken"))

    def _block(self, position: int) -> Iterator[Item]:
        yield from self._items(position)
        self._block_points = min(2 * self._block_points, BLOCK_POINTS)
        reader = self._journal or self._file
        if reader is not None and self._decoder.undecodable:
            reader.unreadable += [
                UnreadableRange(str(reader.path), position - size, size, "not a record")
                for size in self._decoder.undecodable
            ]
            self._decoder.undecodable.clear()

    def _items(self, position: int) -> Iterator[Item]:
        if self._decoder.has_new_axes:
            yield replace(self._decoder.info(), state="running", ended_ms=None)
        if self._copied:
            for item in self._decoder.take(keep_points=False):
                if isinstance(item, Series) and item.kind == "history":
                    yield item
            return
        keep = position > self._since or self._rows_from_file
        yield from self._decoder.take(keep_points=keep)
        if position > self._since:
            yield Checkpoint(self._segment, position)


def _unreadable(path: Path, frame: Frame | frames.Frame, error: RecordError) -> UnreadableRange:
    size = len(frame.payload)
    return UnreadableRange(str(path), frame.end - size, size, str(error))


def _state(log: RunLog, recorded: RunState) -> RunState:
    """A run without a recorded end was killed, unless a process still writes its log."""
    if recorded != "running":
        return recorded
    if log.journal is not None and trainer_alive(log.journal):
        return "running"
    alive = log.wandb_file is not None and is_open_elsewhere(log.wandb_file, log.journal is None)
    return "running" if alive else "killed"


def is_open_elsewhere(path: Path, guess: bool = True) -> bool:
    """Whether another process has ``path`` open.

    Args:
        guess: without /proc, whether a file that changed lately counts as open.
    """
    processes = Path("/proc")
    try:
        wanted = path.stat()
    except OSError:
        return False
    if not (processes / "self" / "fd").is_dir():
        return guess and time.time() - wanted.st_mtime < RECENT_S
    for fd in processes.glob("[0-9]*/fd/*"):
        try:
            state = fd.stat()
        except OSError:
            continue
        same = (state.st_dev, state.st_ino) == (wanted.st_dev, wanted.st_ino)
        if same and fd.parts[2] != str(os.getpid()):
            return True
    return False
