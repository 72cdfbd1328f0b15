"""The writing ends of the outbox: the journals that this process has open, one a run."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.writer import Journal

OPEN_AT_MOST = 64
IDLE_S = 60.0
"""A server's worker closes a journal that it has not written to for so long: most runs end by a
request to another worker, and an open journal keeps the forwarder waiting."""
ATTEMPTS = 20


class _Open:
    """A journal and when it was last written to."""

    __slots__ = ("journal", "used")

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.used = time.monotonic()


class Journals:
    """Opens, appends, closes. Thread-safe; a forked child begins with none.

    Attributes:
        folder: where the journals are.
    """

    def __init__(self, folder: Path, closes_idle: bool) -> None:
        self.folder = folder
        self._closes_idle = closes_idle
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()
        self._sweeper: threading.Thread | None = None
        _all.add(self)

    def append(self, run_id: str, header: Mapping[str, Any], payload: bytes) -> None:
        """Append one operation to the run's journal.

        Raises:
            JournalError: it cannot be written; the message says why.
        """
        with self._lock:
            writer = self._open.get(run_id)
            if writer is None:
                writer = self._open[run_id] = _Open(self._opened(run_id, header))
                self._bound()
            writer.journal.append(outbox.OPERATION, payload)
            writer.used = time.monotonic()

    def close(self, run_id: str) -> None:
        """The run has ended, for now: let its journal go."""
        with self._lock:
            writer = self._open.pop(run_id, None)
            if writer is not None:
                writer.journal.close()

    def path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}{frames.SUFFIX}"

    def close_idle(self, idle_s: float = IDLE_S) -> None:
        """Close what was not written to for ``idle_s`` seconds."""
        before = time.monotonic() - idle_s
        with self._lock:
            for run_id in [name for name, writer in self._open.items() if writer.used < before]:
                self._open.pop(run_id).journal.close()

    def _bound(self) -> None:
        if len(self._open) > OPEN_AT_MOST:
            oldest = min(self._open, key=lambda run_id: self._open[run_id].used)
            self._open.pop(oldest).journal.close()

    def _opened(self, run_id: str, header: Mapping[str, Any]) -> Journal:
        """A journal that still has its name once it is locked: the forwarder removes a journal
        only while nobody has it open."""
        for _ in range(ATTEMPTS):
            opened = Journal(self.path(run_id), header)
            if opened.linked():
                self._sweep()
                return opened
            opened.close()
        raise JournalError(f"the journal of run {run_id} in {self.folder} is taken away again")

    def _sweep(self) -> None:
        if self._closes_idle and (self._sweeper is None or not self._sweeper.is_alive()):
            self._sweeper = threading.Thread(
                target=_sweeping, args=(weakref.ref(self),), name="mlflow-wandb", daemon=True
            )
            self._sweeper.start()

    def _in_child(self) -> None:
        """After a fork: the parent's files are the parent's to hold open."""
        for writer in self._open.values():
            writer.journal.close()
        self._open = {}
        self._lock = threading.Lock()
        self._sweeper = None


def _sweeping(journals: weakref.ref[Journals]) -> None:
    while (found := journals()) is not None:
        found.close_idle()
        del found
        time.sleep(IDLE_S / 4)


_all: weakref.WeakSet[Journals] = weakref.WeakSet()


def _after_fork() -> None:
    for journals in list(_all):
        with contextlib.suppress(Exception):
            journals._in_child()


os.register_at_fork(after_in_child=_after_fork)
