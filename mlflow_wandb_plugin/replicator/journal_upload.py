"""One way of a journal into W&B: what is read, what is written, and whether it arrived."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlflow_wandb_plugin.errors import MlflowWandbError, TargetError, TargetUnavailableError
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.locks import remove_journal
from mlflow_wandb_plugin.journal.reader import JournalReader, read_header
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.replicator.mirrored_run import (
    DONE,
    Entry,
    MirroredRunState,
    Picture,
    Table,
)
from mlflow_wandb_plugin.targets.wandb.lookup import Access, Mode, Remote
from mlflow_wandb_plugin.targets.wandb.run_writer import Opening, WandbRunWriter
from mlflow_wandb_plugin.wandb_api.address import wandb_folder

T = TypeVar("T")

SETTLED_S = 0.5
"""Quiet after the end of a run, before its W&B run is ended: models are registered then."""
DEAD_S = 1.0
"""Quiet of a run whose script is gone, before it counts as dead."""
PARKED_S = 1800.0
"""Quiet of a run on a server, before its W&B run is let go; it is resumed with the next write."""
ARRIVAL_PATIENCE_S = 10.0
"""How long W&B may take to show what it took."""
PARK = -1
"""An ending that leaves the W&B run's state as it is."""


class JournalUpload:
    """One way of a journal into W&B, from its first byte."""

    def __init__(
        self,
        path: Path,
        mode: Mode,
        access: Callable[[], Access],
        say: Callable[..., str],
        before: Mapping[str, Any],
    ) -> None:
        self.path = path
        self._mode = mode
        self._say = say
        self._before = before
        self._header = read_header(path)
        self._project = str(self._header["project"])
        self._run_id = str(self._header["mlflow_run_id"])
        self._entity = str(self._header.get("entity") or "")
        self._reader = JournalReader(path)
        self._files = path.with_suffix(".files")
        self._access = access() if mode == "online" else None
        self._remote = self._look()
        self._book: MirroredRunState | None = None
        self._writer: WandbRunWriter | None = None
        self._mark: dict[str, Any] = {}
        self._rows = 0
        self._saved: dict[str, Path] = {}
        self._folders: list[str] = []
        shutil.rmtree(self._private, ignore_errors=True)

    @property
    def _private(self) -> Path:
        """Where wandb keeps what it writes until W&B has it, or the run is whole (offline)."""
        return self.path.with_suffix(".wandb")

    def _look(self) -> Remote:
        if self._access is None:
            return Remote()
        self._entity = self._access.entity(self._entity)
        return self._access.look(self._entity, self._project, self._run_id)

    # -- reading --------------------------------------------------------------------------

    def drain(self) -> bool:
        """Carry the operations that came since the last call; False when there were none."""
        moved = False
        for end, operation in outbox.operations(self._reader):
            moved = True
            if self._book is None:
                self._book = self._begin(end)
            for entry in self._book.take(operation):
                self._carry(entry)
        return moved

    def _begin(self, end: int) -> MirroredRunState:
        """Find out at which of W&B's rows the journal begins.

        An earlier journal of the run may have been carried and removed. W&B knows: the config
        names the journal that comes in, and its first row, before any of its rows arrives.
        """
        with open(self.path, "rb") as file:
            name = hashlib.sha256(file.read(end)).hexdigest()[:16]
        about = self._remote.config.get(rules.ABOUT) or {}
        known = about.get("journal") or {}
        if self._mode == "offline":
            about, known = self._local(name)
        row = known["row"] if known.get("id") == name else self._next_row()
        self._mark = {"id": name, "row": row}
        counts = ("traces_not_mirrored", "lost")
        if known.get("id") == name:
            before = {**about, **{key: known.get(key) for key in counts}}
        else:
            before = dict(about)
        self._mark |= {key: before[key] for key in counts if before.get(key)}
        return MirroredRunState(self._header, self._files, before)

    def _next_row(self) -> int:
        if self._mode == "offline":
            return int(self._before.get("rows") or 0)
        return self._remote.rows

    def _local(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Offline there is no W&B to ask: what the status file says of earlier journals, once the
        remains of an interrupted attempt at this one are gone."""
        about = dict(self._before.get("about") or {})
        known = dict(about.get("journal") or {})
        if known.get("id") == name:
            for folder in map(Path, self._before.get("folders") or ()):
                if folder.name.startswith("offline-run-") and not folder.is_symlink():
                    shutil.rmtree(folder, ignore_errors=True)
        return about, known

    def _carry(self, entry: Entry) -> None:
        number = int(self._mark["row"]) + self._rows
        self._rows += 1
        writer = self._open()
        if number < writer.next_row:
            return
        try:
            self._write(writer, number, entry)
        except TargetError as error:
            print(f"{self.path.stem}: row {number} refused: {error}", flush=True)
            book = self._book
            assert book is not None
            book.lost["row refused"] += 1
            # The number is taken: later rows keep theirs.
            writer.log(number, {})

    @staticmethod
    def _write(writer: WandbRunWriter, number: int, entry: Entry) -> None:
        if isinstance(entry, Picture):
            writer.show(number, entry.what, entry.local, entry.at_ms)
        elif isinstance(entry, Table):
            writer.tabulate(number, entry.key, entry.columns, entry.data, entry.at_ms)
        else:
            writer.log(number, entry.document())

    # -- writing --------------------------------------------------------------------------

    def _open(self, ends: bool | None = None) -> WandbRunWriter:
        if self._writer is not None:
            return self._writer
        book = self._book
        assert book is not None
        online = self._mode == "online"
        if ends is None:
            ends = not online or self._header.get("role") != "server" or book.over
        self._ends = ends
        self._writer = WandbRunWriter(
            Opening(
                run_id=self._run_id,
                project=self._project,
                entity=self._entity,
                mode=self._mode,
                folder=self._private,
                ends=ends,
                name=rules.run_name(book.name),
                notes=book.notes,
                group=book.parent,
                labels=book.labels,
                config=book.config(self._mark),
                source=rules.source(book.tags),
            )
        )
        self._tell("live", where=self._writer.url)
        return self._writer

    def _tell(self, state: str, **more: Any) -> str:
        book = self._book
        facts: dict[str, Any] = {"run_id": self._run_id, "project": self._project}
        if book is not None:
            facts |= {
                "points": book.points,
                "losses": self._losses(),
                "rows": int(self._mark["row"]) + self._rows,
                "about": book.about(self._mark),
            }
        return self._say(state, **facts, **more)

    def _losses(self) -> dict[str, int]:
        book = self._book
        assert book is not None
        traces = {"traces (W&B has no place for them)": book.traces} if book.traces else {}
        return dict(book.lost) | traces

    def settle(self, over: bool = False) -> None:
        """Bring what describes the run up to date: name, tags, config, files, models."""
        book = self._book
        if book is None:
            return
        writer = self._open()
        self._send_files(book, writer)
        for dataset in book.to_use:
            self._try("dataset", writer.use_dataset, dataset)
        book.to_use.clear()
        self._send_models(book, writer, over)
        for alias in book.to_alias:
            if self._try("alias", writer.alias, *alias) is False:
                book.lost["alias of a model that was written offline before"] += 1
        book.to_alias.clear()
        for loss in writer.losses:
            book.lost[loss] += 1
        writer.losses.clear()
        writer.describe(rules.run_name(book.name), book.notes, book.labels, book.config(self._mark))

    def _try(self, what: str, call: Callable[..., T], *arguments: Any) -> T | None:
        """Call; what W&B refuses for good is counted, and the rest goes on."""
        assert self._book is not None
        try:
            return call(*arguments)
        except TargetError as error:
            print(f"{self.path.stem}: {what} refused: {error}", flush=True)
            self._book.lost[f"{what} refused"] += 1
            return None

    def _send_files(self, book: MirroredRunState, writer: WandbRunWriter) -> None:
        if book.to_drop:
            dropped = [rules.file_path(path) if path else rules.FILES_DIR for path in book.to_drop]
            for path in dropped:
                for saved in [s for s in self._saved if s == path or s.startswith(f"{path}/")]:
                    del self._saved[saved]
            self._try("removal of a file", writer.drop, dropped)
            book.to_drop.clear()
        files = {rules.file_path(path): local for path, local in book.to_save.items()}
        writer.save(files)
        self._saved.update(files)
        book.to_save.clear()

    def _send_models(self, book: MirroredRunState, writer: WandbRunWriter, over: bool) -> None:
        for model_id in sorted(book.changed_models):
            model = book.models[model_id]
            ready = model.status in DONE or not model.known
            if over or (ready and self._mode == "online"):
                if not model.known and self._mode == "offline":
                    book.lost["version of a model that was written offline before"] += 1
                else:
                    self._try("model", writer.model, model)
                book.changed_models.discard(model_id)

    # -- the end --------------------------------------------------------------------------

    def ending(self, alive: bool, quiet_s: float, follow: bool) -> int | None:
        """The exit code that is due now, or `PARK`; None while the run goes on."""
        book = self._book
        if book is None:
            return None if alive else PARK
        if book.over:
            return rules.EXIT_CODES[book.status] if quiet_s >= SETTLED_S or not follow else None
        if alive:
            return None
        if self._header.get("role") == "server":
            return PARK if quiet_s >= PARKED_S or not follow else None
        return rules.DIED if quiet_s >= DEAD_S or not follow else None

    def end(self, code: int) -> None:
        """End the W&B run, if it is open, and see that W&B has everything.

        Raises:
            TargetUnavailableError: it has not.
        """
        if self._book is None:
            return
        self._read_torn_end()
        if self._writer is None:
            return
        self.settle(over=True)
        if code != PARK and not self._ends:
            # Opened while the run went on: its state may be set by another opening only.
            self._close(0)
            self._open(ends=True)
        self._close(0 if code == PARK else code)
        self._verify()

    def _read_torn_end(self) -> None:
        """What a full disk cut short at the journal's end, with nobody there to go on, is lost."""
        assert self._book is not None
        with _alone_with(self.path) as (alone, size):
            if alone and size > self._reader.position and not self.drain():
                self._reader.finish()
        if self._reader.unreadable:
            self._book.lost["record cut short"] += len(self._reader.unreadable)
            self._reader.unreadable.clear()

    def _close(self, code: int) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.finish(code)
        if self._mode == "offline":
            self._put_in_place(writer.folder)

    def _put_in_place(self, written: Path) -> None:
        """A whole offline run goes where wandb has such runs; a half one is never seen there."""
        target = wandb_folder() / written.name
        for number in range(1, 1000):
            if not target.exists():
                break
            target = target.with_name(f"{written.name}-{number}")
        self._folders.append(str(target))
        self._tell("live", where=str(target), folders=self._folders)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(written, target)

    def _verify(self) -> None:
        if self._access is None:
            return
        due = int(self._mark["row"]) + self._rows
        deadline = time.monotonic() + ARRIVAL_PATIENCE_S
        pause = 0.1
        while True:
            there = self._access.look(self._entity, self._project, self._run_id).rows
            gone = self._access.lacking(self._entity, self._project, self._run_id, self._saved)
            if there >= due and not gone:
                return
            if time.monotonic() > deadline:
                raise TargetUnavailableError(
                    f"W&B has {there} of {due} rows, lacks {len(gone)} files: they are sent again"
                )
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def take_away(self) -> bool:
        """Remove the journal, if all of it was carried and nobody writes it."""
        with _alone_with(self.path) as (alone, size):
            if not alone or size != self._reader.position:
                return False
            # Said first: a later journal of the run has to know where this one ended.
            self._tell("complete", error="")
            remove_journal(self.path)
        if self._book is not None:
            for local in self._book.used_files:
                local.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._files.rmdir()
        shutil.rmtree(self._private, ignore_errors=True)
        return True

    def let_go(self) -> None:
        """Close a W&B run that is still open; what it lacks is carried by another passage."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(MlflowWandbError):
                writer.finish(rules.DIED)


@contextlib.contextmanager
def _alone_with(path: Path) -> Iterator[tuple[bool, int]]:
    """Whether nobody else has the journal open for writing, and its size in bytes. A writer that
    comes meanwhile waits, and then sees that its file is gone."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:
            alone = False
        yield alone, os.fstat(fd).st_size
    finally:
        os.close(fd)
