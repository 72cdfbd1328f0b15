"""Deliver one journal of a mirrored MLflow run to W&B: while it is written, or later."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.errors import (
    MlflowWandbError,
    SourceUnavailableError,
    TargetUnavailableError,
    UsageError,
)
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.journal_locks import (
    exclusive_journal,
    remove_journal,
    shipping_lock,
    trainer_alive,
)
from mlflow_wandb_plugin.journal.reader import JournalReader, read_header
from mlflow_wandb_plugin.journal.status_file import read_status, write_status
from mlflow_wandb_plugin.replicator.mirror_place import MirrorPlace, OfflineMirror, OnlineMirror
from mlflow_wandb_plugin.sources.mlflow.journal_reading import (
    JournalReading,
    JournalStart,
    Pauses,
    find_start,
)
from mlflow_wandb_plugin.targets.wandb.log_upload import transmit_interval_s
from mlflow_wandb_plugin.targets.wandb.lookup import wanted_mode
from mlflow_wandb_plugin.targets.wandb.sdk_errors import CoreGoneError

POLL_S = 0.2


class WandbShipment:
    """Delivers one journal.

    Args:
        path: the journal.
        follow: whether to wait for more while processes have the journal open for writing.
        keep_going: asked while there is nothing to do; False ends the waiting.

    Attributes:
        core_gone: wandb-core died, so that only another process can go on.
    """

    def __init__(
        self, path: Path, follow: bool, keep_going: Callable[[], bool] = lambda: True
    ) -> None:
        self.path = path
        self.core_gone = False
        self._follow = follow
        self._keep_going = keep_going
        self._status: dict[str, Any] = {}

    def ship(self) -> str:
        """Deliver what the journal has, and what is appended meanwhile.

        Returns:
            The state reached: complete, live (a process still writes the journal), waiting (there
            is no key, W&B does not accept it or does not answer), failed, or busy (another process
            delivers the journal).
        """
        with shipping_lock(self.path) as locked:
            if not locked:
                return "busy"
            if not self.path.exists():
                return str(read_status(self.path).get("state", "complete"))
            self._status = read_status(self.path)
            self._status |= {"born": outbox.BORN, "pid": os.getpid(), "error": ""}
            try:
                if not self._follow and trainer_alive(self.path):
                    return "live"
                while not (state := self._upload()):
                    pass
                return state
            except (UsageError, SourceUnavailableError, TargetUnavailableError) as error:
                self.core_gone = isinstance(error, CoreGoneError)
                return self.write_status("waiting", error=str(error))
            except MlflowWandbError as error:
                return self.write_status("failed", error=str(error))

    def write_status(self, state: str, **more: Any) -> str:
        """Replace the journal's status file; returns ``state``."""
        self._status.update(more, state=state, updated=time.time())
        with contextlib.suppress(OSError):
            write_status(self.path, self._status)
            if state in (*outbox.STUCK, "complete"):
                outbox.write_trouble(self.path.parent, str(self._status["error"]))
        return state

    def _upload(self) -> str:
        """Upload the journal, from its first byte; returns the state reached, empty if more was
        appended after the run's end."""
        header = read_header(self.path)
        place = self._place(header)
        start = self._start(place)
        if start is None:
            return "complete" if self._remove_if_delivered(_size_read(self.path)) else "live"
        pauses = Pauses(self._wait, transmit_interval_s()) if self._follow else None
        reading = JournalReading(self.path, header, start, place.models, pauses, place.whole)
        items = reading.items()
        first = next(items)
        assert isinstance(first, RunInfo)
        writer = place.writer(first, start)
        self._status |= {"run_id": first.run_id, "project": first.project}
        self.write_status("live", where=place.where())
        try:
            replicate(itertools.chain([first], items), writer)
        finally:
            writer.close()
        self._status |= {
            "name": reading.state.name or "",
            "points": reading.state.points,
            "losses": reading.state.losses | dict(writer.losses),
            "rows": reading.next_row,
            "about": reading.section,
        }
        if self._remove_if_delivered(reading.position, reading.kept_files):
            return "complete"
        return "" if self._follow and self._keep_going() else self.write_status("live")

    def _place(self, header: Mapping[str, Any]) -> MirrorPlace:
        if wanted_mode() == "offline":
            return OfflineMirror(self.path, self._status)
        entity, project = str(header.get("entity") or ""), str(header["project"])
        return OnlineMirror(entity, project, str(header["mlflow_run_id"]))

    def _start(self, place: MirrorPlace) -> JournalStart | None:
        """Where the journal's rows begin; None if it has no operation, and gets none now."""
        while True:
            alive = trainer_alive(self.path)
            start = find_start(self.path, place.section, place.rows)
            if start is not None or not (alive and self._follow and self._wait()):
                return start

    def _wait(self) -> bool:
        """Wait for more; returns whether to go on."""
        time.sleep(POLL_S)
        return self._keep_going()

    def _remove_if_delivered(self, position: int, files: Iterable[Path] = ()) -> bool:
        """Remove the journal and its files, if nobody writes it and ``position`` is its end."""
        with exclusive_journal(self.path) as size:
            if size != position:
                return False
            # The status first: a later journal of the run has to find where this one ended.
            self.write_status("complete", error="")
            remove_journal(self.path)
        for local in files:
            local.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.with_suffix(".files").rmdir()
        return True


def _size_read(path: Path) -> int:
    """Offset behind the journal's last complete frame."""
    reader = JournalReader(path)
    for _ in reader.read():
        pass
    return reader.position


def is_mirrored(path: Path) -> bool:
    """Whether ``path`` is the journal of a mirrored MLflow run, and not of a W&B run."""
    try:
        return read_header(path).get("born") == outbox.BORN
    except MlflowWandbError:
        return False
