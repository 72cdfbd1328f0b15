"""Reading one run's logs: its journal, where the package wrote one, and its ``.wandb`` file.

Rows come from the journal (it survives what the file does not), what only wandb-core knows (system
metrics, the machine, the exit's run time) from the file. Live replication reads the same way,
following.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow_wandb_plugin.core.identity import TO_THE_END
from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    FileRef,
    Item,
    RunInfo,
    RunState,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.errors import RecordError, SourceError
from mlflow_wandb_plugin.journal import frames
from mlflow_wandb_plugin.journal.locks import trainer_alive
from mlflow_wandb_plugin.journal.reader import JournalReader
from mlflow_wandb_plugin.sources.wandb_local.folders import RunLog, as_it_is_now
from mlflow_wandb_plugin.wandb_log.decoder import BLOCK_POINTS, RunDecoder
from mlflow_wandb_plugin.wandb_log.framing import Frame, LogReader
from mlflow_wandb_plugin.wandb_log.records import HISTORY, record_type

RECENT_S = 120
LOOK_EVERY = 64
"""Records between two looks at how large the block has grown."""
# Numbers of Record.record_type. Core alone makes stats, output_raw and environment records.
CONFIG, RUN, EXIT = 5, 17, 18
_CORE_ONLY = frozenset({7, 13, 26})
_PEEKED = frozenset({CONFIG, RUN, EXIT})


def peek(log: RunLog) -> RunInfo:
    """A run's identity, config and state, without decoding its history.

    Raises:
        SourceError, JournalError: the log cannot be read or does not say whose it is.
    """
    log = as_it_is_now(log)
    decoder = RunDecoder()
    decoder.begin(log.segment, None)
    if log.wandb_file is not None:
        try:
            for frame in LogReader(log.wandb_file).read():
                if record_type(frame.payload) in _PEEKED:
                    with contextlib.suppress(RecordError):
                        decoder.feed(frame.payload)
        except SourceError:
            # Deleted, or never written: the journal alone is a run, too.
            if log.journal is None:
                raise
    if log.journal is not None:
        for entry in JournalReader(log.journal).read():
            if entry.kind == frames.RECORD:
                with contextlib.suppress(RecordError):
                    decoder.feed(entry.payload, rows=False)
    info = decoder.info()
    if not info.run_id:
        raise SourceError("the log ends before it says which run it is of: nothing was logged")
    return replace(info, state=_state(log, info.state))


@dataclass(slots=True)
class Progress:
    """How far a growing log has come.

    Attributes:
        closed: the training process has said that it appends no more.
        broken: it could not write all of its journal (disk full, …).
        core_done: wandb-core has written the run's exit to its file.
    """

    closed: bool = False
    broken: bool = False
    core_done: bool = False


def read_logs(
    logs: list[RunLog],
    since: Mapping[str, int],
    follow: Callable[[Progress], bool] | None = None,
) -> Iterator[Item]:
    """Yield everything in ``logs``, the last of which may still grow, with a `RunInfo` behind
    each log.

    Args:
        since: positions already carried; ``journal:SEGMENT`` for journals, -1 for a whole log.
        follow: called when all that is there has been read; it waits, and returns whether to
            look again. None: read once.
    """
    decoder = RunDecoder()
    state: RunState = "running"
    missing = False
    done: list[RunLog] = []
    for log in map(as_it_is_now, logs):
        reading = _LogReading(log, decoder, since)
        yield from reading.run(follow if log.segment == logs[-1].segment else None)
        state = _state(log, decoder.run.state())
        if state != "running" and reading.file_knows_better:
            # Read it as any backfill would: wandb-core wrote it to its end, the tap did not.
            log = replace(log, journal=None)
            decoder = _decoder_behind(done)
            reading = _LogReading(log, decoder, since)
        yield from reading.finish(over=state != "running")
        done.append(log)
        missing = missing or reading.missing
        ended = None if state == "running" else decoder.run.ended_ms
        yield replace(decoder.info(), state=state, ended_ms=ended, missing=missing)


def _decoder_behind(logs: list[RunLog]) -> RunDecoder:
    """A decoder that knows ``logs``, whose items have been yielded before."""
    decoder = RunDecoder()
    for log in logs:
        for _ in _LogReading(log, decoder, {log.segment: TO_THE_END}).finish(over=True):
            pass
    return decoder


class _LogReading:
    """Reads one log through the run's decoder."""

    def __init__(self, log: RunLog, decoder: RunDecoder, since: Mapping[str, int]) -> None:
        self._log = log
        self._decoder = decoder
        self._file = None if log.wandb_file is None else LogReader(log.wandb_file)
        self._journal = None if log.journal is None else JournalReader(log.journal)
        self._segment = log.segment if log.journal is None else f"journal:{log.segment}"
        self._since = since.get(self._segment, 0)
        self._carried = since.get(log.segment) == TO_THE_END
        self._rows_from_file = self._journal is None
        self._progress = Progress()
        decoder.begin(log.segment, log.files_dir)

    def run(self, follow: Callable[[Progress], bool] | None) -> Iterator[Item]:
        yield from self._blocks()
        if follow is None:
            return
        yield replace(self._decoder.info(), state="running", ended_ms=None)
        while follow(self._progress):
            yield from self._blocks()
            if self._decoder.changed:
                yield replace(self._decoder.info(), state="running", ended_ms=None)
        # The trainer's last words, and core's, came while we waited.
        yield from self._blocks()

    @property
    def file_knows_better(self) -> bool:
        """wandb-core came to the end of the run, and the journal did not."""
        progress = self._progress
        cut_short = progress.broken or not progress.closed
        return self._journal is not None and progress.core_done and cut_short

    @property
    def missing(self) -> bool:
        """Records are known to be lost, and are in no other log."""
        return self._journal is not None and self._progress.broken

    def finish(self, over: bool) -> Iterator[Item]:
        """Read the rest; ``over`` says that the log will grow no more."""
        yield from self._blocks()
        if over:
            self._decoder.end()
            self._catch_up()
            yield from self._block(self._position)
        for reader in (self._file, self._journal):
            if reader is not None:
                if over:
                    reader.finish()
                leads = reader is self._journal or self._journal is None
                yield from (replace(unreadable, lost=leads) for unreadable in reader.unreadable)
        if not self._carried:
            yield from self._all_files()

    @property
    def _position(self) -> int:
        if self._journal is not None:
            return self._journal.position
        return 0 if self._file is None else self._file.position

    def _blocks(self) -> Iterator[Item]:
        if self._journal is not None:
            yield from self._journal_blocks(self._journal)
        if self._file is not None:
            yield from self._file_blocks(self._file)

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
                self._heed(entry.document())
            crossed = skipping and entry.end >= self._since
            if crossed or decoder.points >= BLOCK_POINTS:
                yield from self._block(entry.end)
                skipping = entry.end < self._since
        yield from self._block(reader.position)

    def _file_blocks(self, reader: LogReader) -> Iterator[Item]:
        decoder = self._decoder
        try:
            feed = decoder.feed if self._journal is None else self._feed_core_record
            for records in reader.read_many():
                for count, (end, payload) in enumerate(records):
                    try:
                        feed(payload)
                    except RecordError as error:
                        reader.unreadable.append(
                            _unreadable(reader.path, Frame(end, payload), error)
                        )
                    if not count % LOOK_EVERY and decoder.points >= BLOCK_POINTS:
                        yield from self._block(end if self._journal is None else self._position)
        except SourceError:
            # Not there yet (wandb-core has just started), or not ours to read: the journal leads.
            if self._journal is None:
                raise
        yield from self._block(self._position)

    def _feed_core_record(self, payload: bytes) -> None:
        kind = record_type(payload)
        if kind == EXIT:
            self._decoder.core_exit(payload)
            self._progress.core_done = True
        elif kind in _CORE_ONLY or (kind == HISTORY and self._rows_from_file):
            self._decoder.feed(payload)

    def _catch_up(self) -> None:
        """Rows that a journal cut short lacks and the file has: those of later steps."""
        if self._journal is None or self._progress.closed or self._rows_from_file:
            return
        if self._log.wandb_file is None or not self._log.wandb_file.is_file():
            return
        last = self._decoder.run.last_step
        for frame in LogReader(self._log.wandb_file).read():
            if record_type(frame.payload) == HISTORY:
                self._decoder.feed_row_after(last, frame.payload)

    def _heed(self, note: Mapping[str, object]) -> None:
        """Notes of the tap. Where several processes share the run, or TensorBoard feeds it, only
        wandb-core knows the rows: they are read from its file."""
        if note.get("rows_from_file") and not self._rows_from_file:
            self._rows_from_file = True
            self._decoder.forget_pending()
        if note.get("shared"):
            self._decoder.shared_mode()
        if note.get("closed"):
            self._progress.closed = True
        if note.get("broken"):
            self._progress.broken = True

    def _block(self, position: int) -> Iterator[Item]:
        yield from self._taken(position)
        leading = self._journal or self._file
        if leading is not None and self._decoder.spoiled:
            leading.unreadable += [
                UnreadableRange(str(leading.path), position - size, size, "not a record")
                for size in self._decoder.spoiled
            ]
            self._decoder.spoiled.clear()

    def _taken(self, position: int) -> Iterator[Item]:
        if self._carried:
            for item in self._decoder.take(keep_points=False):
                if isinstance(item, Series) and item.kind == "history":
                    yield item
            return
        keep = position > self._since or self._rows_from_file
        yield from self._decoder.take(keep_points=keep)
        if position > self._since:
            yield Checkpoint(self._segment, position)

    def _all_files(self) -> Iterator[Item]:
        """Every file of the run's folder: console log, requirements, diff, code, media, saved."""
        root = self._log.files_dir
        if root is None or not root.is_dir():
            return
        for folder, subfolders, names in os.walk(root):
            subfolders.sort()
            for name in sorted(names):
                local = Path(folder, name)
                yield FileRef(local.relative_to(root).as_posix(), local)


def _unreadable(path: Path, frame: Frame | frames.Frame, error: RecordError) -> UnreadableRange:
    size = len(frame.payload)
    return UnreadableRange(str(path), frame.end - size, size, str(error))


def _state(log: RunLog, said: RunState) -> RunState:
    """A run that never said how it ended was killed, unless somebody still writes its log."""
    if said != "running":
        return said
    if log.journal is not None:
        alive = trainer_alive(log.journal)
    else:
        alive = log.wandb_file is not None and written_to(log.wandb_file)
    return "running" if alive else "killed"


def written_to(path: Path) -> bool:
    """Whether another process has ``path`` open (Linux), else whether it changed lately."""
    processes = Path("/proc")
    if not (processes / "self" / "fd").is_dir():
        return time.time() - path.stat().st_mtime < RECENT_S
    wanted = path.stat()
    for fd in processes.glob("[0-9]*/fd/*"):
        try:
            state = fd.stat()
        except OSError:
            continue
        same = (state.st_dev, state.st_ino) == (wanted.st_dev, wanted.st_ino)
        if same and fd.parts[2] != str(os.getpid()):
            return True
    return False
