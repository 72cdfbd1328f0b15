"""Read the journal of one run that was created in MLflow, also while it grows."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_wandb_plugin.core.model import (
    NO_FILE,
    ArtifactEntry,
    ArtifactRef,
    Checkpoint,
    FileRef,
    Item,
    RunInfo,
    RunState,
)
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.journal_locks import exclusive_journal, trainer_alive
from mlflow_wandb_plugin.journal.reader import JournalReader
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.journal_state import OF_THE_RUN, JournalModels, JournalState
from mlflow_wandb_plugin.mapping.models import EMPTY_FILE, Model
from mlflow_wandb_plugin.mapping.names import is_below, safe_path
from mlflow_wandb_plugin.mapping.to_wandb import SEGMENT
from mlflow_wandb_plugin.sources.mlflow.artifact_refs import (
    document_entry,
    file_entry,
    model_artifact,
    used_datasets,
)
from mlflow_wandb_plugin.sources.mlflow.journal_rows import JournalRows
from mlflow_wandb_plugin.sources.mlflow.run_description import STATES


class Ending(NamedTuple):
    """How a run ended, or that it goes on."""

    state: RunState
    exit_code: int | None = None


GOES_ON = Ending("running")
QUIET_AFTER_END_S = 0.5
"""Without operations after a run's end, before its reading ends: models are registered then."""
QUIET_OF_DEAD_S = 1.0
"""Without operations of a run whose process is gone, before the run counts as killed."""
QUIET_OF_SERVER_RUN_S = 1800.0
"""Without operations of a server's run whose journal is closed, before its reading ends."""
HEARTBEAT_S = 60.0
"""Between two checkpoints of a run without news: W&B takes a run for crashed that it has not heard
of for minutes."""
BLOCK_POINTS = 100_000
"""Points in memory at a time."""


class JournalStart(NamedTuple):
    """Where the rows of a journal begin.

    Attributes:
        section: `rules.MLFLOW_KEY` of the W&B config as it was when the journal began, with the
            run's start.
        record: the journal's identity, its first row, and what was lost before it. It is in the
            config with the journal's first row, so that another attempt finds it there.
        resent: whether an earlier attempt has written some of the journal.
    """

    section: Mapping[str, Any]
    record: Mapping[str, Any]
    resent: bool


_COUNTS = ("traces_not_mirrored", "lost")


def find_start(path: Path, section: Mapping[str, Any], next_row: int) -> JournalStart | None:
    """Find where the rows of a journal begin; None while it has no operation. Earlier journals of
    the run may have been read and removed.

    Args:
        section: `rules.MLFLOW_KEY` of the W&B config, with the record of the latest journal.
        next_row: number of the next row of the W&B run's history.
    """
    first = next(outbox.operations(JournalReader(path)), None)
    if first is None:
        return None
    position, operation = first
    with open(path, "rb") as file:
        journal_id = hashlib.sha256(file.read(position)).hexdigest()[:16]
    latest = section.get("journal") or {}
    resent = latest.get("id") == journal_id
    before = dict(section)
    if operation.get("op") == "create":
        # W&B is told of the run, and its folder is named, before the operation is read.
        before.setdefault("start_time", operation.get("start_time"))
    if resent:
        # The section has the counts of the first attempt; this one counts again.
        before |= {key: latest.get(key) for key in _COUNTS}
    record = {"id": journal_id, "row": latest["row"] if resent else next_row}
    record |= {key: before[key] for key in _COUNTS if before.get(key)}
    return JournalStart(before, record, resent)


class Pauses(NamedTuple):
    """How a growing journal is read.

    Attributes:
        wait: waits a moment for more; returns False to end the reading.
        checkpoint_s: seconds between two checkpoints.
    """

    wait: Callable[[], bool]
    checkpoint_s: float


class JournalReading:
    """Reads one journal.

    Args:
        path: the journal.
        header: of the journal.
        earlier_models: returns the logged models that W&B has of the run, by id.
        pauses: None to read what is there.
        whole: yield models at the end only, as they are then, where W&B cannot be asked for them.

    Attributes:
        state: the run as it is after what was read.
        kept_files: the files beside the journal that it names.
    """

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        start: JournalStart,
        earlier_models: Callable[[], dict[str, Model]],
        pauses: Pauses | None,
        whole: bool,
    ) -> None:
        self.state = JournalState.from_section(start.section)
        self.kept_files: list[Path] = []
        self._path = path
        self._files = path.with_suffix(".files")
        self._header = header
        self._record = start.record
        self._pauses = pauses
        self._whole = whole
        self._reader = JournalReader(path)
        self._models = JournalModels(earlier_models)
        drops_repeats = rules.drops_repeats(str(header.get("tracking_uri") or ""))
        self._rows = JournalRows(self.state, int(start.record["row"]), drops_repeats)
        self._operations = self._operations_paused = 0
        self._paused_at = -math.inf

    @property
    def position(self) -> int:
        """Offset behind what was read."""
        return self._reader.position

    @property
    def next_row(self) -> int:
        """Number of the next row of W&B's history."""
        return self._rows.next

    @property
    def section(self) -> dict[str, Any]:
        """The section `rules.MLFLOW_KEY` of the config, as it is now."""
        return self.state.section(self._header.get("experiment"), self._record)

    def items(self) -> Iterator[Item]:
        """Yield the run as it is before the journal, everything in its order, and the run as it
        is after it. The last description says how the run ended, or that it goes on."""
        yield self._info()
        quiet_since = time.monotonic()
        while True:
            alive, before = trainer_alive(self._path), self._operations
            yield from self._new_items()
            now = time.monotonic()
            if self._operations > before:
                quiet_since = now
            else:
                ending = self._ending(alive, now - quiet_since)
                if ending is not None and not (yield from self._torn_end()):
                    break
            if self._pauses is not None:
                if not self._whole:
                    yield from self._pause(now, self._pauses.checkpoint_s)
                if not self._pauses.wait():
                    ending = GOES_ON
                    break
        yield from self._changed_models(final=True)
        yield self._info(ending)

    def _ending(self, alive: bool, quiet_s: float) -> Ending | None:
        """How the run ended, if its reading ends now.

        Args:
            alive: whether a process had the journal open for writing before the last look.
            quiet_s: seconds since the last operation.
        """
        status = self.state.status
        if self.state.ended:
            ending = Ending(STATES[status], rules.EXIT_CODES[status])
            patience_s = QUIET_AFTER_END_S
        elif alive:
            return None
        elif self._header.get("role") == "server" or not self._operations:
            ending, patience_s = GOES_ON, QUIET_OF_SERVER_RUN_S
        else:
            ending, patience_s = Ending("killed", rules.KILLED_EXIT_CODE), QUIET_OF_DEAD_S
        return ending if quiet_s >= patience_s or self._pauses is None else None

    def _pause(self, now: float, checkpoint_s: float) -> Iterator[Item]:
        """Yield the run as it is and a checkpoint, if one is due; times in seconds."""
        news = self._operations > self._operations_paused
        if now < self._paused_at + (checkpoint_s if news else max(checkpoint_s, HEARTBEAT_S)):
            return
        self._paused_at, self._operations_paused = now, self._operations
        yield from self._changed_models(final=False)
        yield self._info()
        yield Checkpoint(SEGMENT, self.next_row)

    def _info(self, ending: Ending = GOES_ON) -> RunInfo:
        info = self.state.info(self._header, self._record, *ending)
        return replace(
            info,
            summary={**info.summary, **self._rows.shown},
            rows={SEGMENT: self.next_row},
            last_step=self.next_row - 1 if self.next_row else None,
            last_ms=self._rows.last_ms,
        )

    def _new_items(self) -> Iterator[Item]:
        """Yield what the operations become that were appended since the last call."""
        for _, operation in outbox.operations(self._reader):
            self._operations += 1
            yield from self._apply(operation)
            if self._rows.points >= BLOCK_POINTS:
                yield from self._rows.take()
                yield self._info()
                yield Checkpoint(SEGMENT, self.next_row)
        yield from self._rows.take()

    def _torn_end(self) -> Generator[Item, None, bool]:
        """Count an incomplete record at the journal's end (a full disk), if nobody writes it;
        returns whether there were more operations instead."""
        new: list[Item] = []
        before = self._operations
        with exclusive_journal(self._path) as size:
            if size is not None and size > self._reader.position:
                new += self._new_items()
                if self._operations == before:
                    self._reader.finish()
        yield from new
        if self._reader.unreadable:
            self.state.lost["record cut short"] += len(self._reader.unreadable)
            self._reader.unreadable.clear()
        return self._operations > before

    def _apply(self, op: Mapping[str, Any]) -> Iterator[Item]:
        self.state.apply(op)
        match op["op"]:
            case "batch":
                self._rows.add(op.get("metrics") or ())
            case "inputs":
                yield from used_datasets(op.get("datasets") or ())
            case "file":
                yield from self._file(op)
            case "unfile":
                path = str(op.get("path") or "")
                if op.get("model"):
                    _remove_below(self._models.change(op["model"]).files, path)
                else:
                    removed = rules.file_path(path) if path else rules.FILES_DIR
                    yield FileRef(removed, NO_FILE, removed=True)
            case "model" | "outputs" | "version" | "alias":
                self._models.apply(op, self.state)
            case name if name not in OF_THE_RUN:
                self.state.lost[f"unknown operation {name}"] += 1

    def _file(self, op: Mapping[str, Any]) -> Iterator[Item]:
        local, path = self._files / Path(op["file"]).name, str(op["path"])
        # A link may name any file of the user's.
        linked = local.is_symlink() or self._files.is_symlink()
        if not linked:
            self.kept_files.append(local)
        exists = local.is_file() and not linked
        if not exists:
            self.state.lost["file is a symbolic link" if linked else "file gone"] += 1
        if op.get("model"):
            if exists:
                self._models.change(op["model"]).files[path] = local
            return
        if exists:
            yield FileRef(rules.file_path(path), local, fixed=True)
        yield from self._rows.add_file(path, local if exists else None, int(op.get("at") or 0))

    def _changed_models(self, final: bool) -> Iterator[ArtifactRef]:
        for model in self._models.take_changed(unfinished=final):
            if not model.known:
                self.state.lost["version of a model that W&B does not have"] += 1
                continue
            if not model.files:
                # The same file later: another would be another version of the artifact.
                model.files[EMPTY_FILE] = document_entry(EMPTY_FILE, model.metadata)
            entries = [_model_file(*file) for file in sorted(model.files.items())]
            yield model_artifact(model, self._models.all, entries)


def _model_file(path: str, file: Path | ArtifactEntry) -> ArtifactEntry:
    return file if isinstance(file, ArtifactEntry) else file_entry(safe_path(path), file)


def _remove_below(files: dict[str, Any], path: str) -> None:
    """Remove a file, or the files of a folder; an empty path is all."""
    for name in [name for name in files if not path or is_below(name, path)]:
        del files[name]
