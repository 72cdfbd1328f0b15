"""What this process writes into the outbox: a journal for each run, and the run's files."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mlflow_wandb_plugin.core.atomic_files import copy_file, link_or_copy
from mlflow_wandb_plugin.core.private_files import open_private, private_folder
from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.writer import Journal

OPEN_AT_MOST = 64
IDLE_S = 60.0
"""After this time without a write, a server's worker closes a journal: most runs are ended by a
request to another worker, and the replicator waits while a journal is open."""
ATTEMPTS = 20
_SUFFIX = re.compile(r"\.\w{1,16}")


class Journals:
    """Opens, appends to and closes journals. Thread-safe; a forked child begins with none open.

    Attributes:
        folder: where the journals are.
        closes_idle: whether journals are closed after `IDLE_S` without a write.
    """

    def __init__(self, folder: Path, closes_idle: bool) -> None:
        self.folder = folder
        self._closes_idle = closes_idle
        self._open: dict[str, Journal] = {}
        self._lock = threading.Lock()
        self._closer: threading.Thread | None = None
        _all.add(self)

    def append(self, run_id: str, header: Mapping[str, Any], payload: bytes) -> None:
        """Append one operation to the run's journal.

        Raises:
            JournalError: it cannot be written.
        """
        with self._lock:
            journal = self._open.get(run_id)
            if journal is None:
                journal = self._open[run_id] = self._open_journal(run_id, header)
                if len(self._open) > OPEN_AT_MOST:
                    oldest = min(self._open, key=lambda name: self._open[name].used)
                    self._open.pop(oldest).close()
            journal.append(outbox.OPERATION, payload)

    def close(self, run_id: str) -> None:
        with self._lock:
            journal = self._open.pop(run_id, None)
            if journal is not None:
                journal.close()

    def path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}{frames.SUFFIX}"

    def close_idle(self, idle_s: float = IDLE_S) -> None:
        """Close the journals that were not written to for ``idle_s`` seconds."""
        before = time.monotonic() - idle_s
        with self._lock:
            for run_id in [name for name, journal in self._open.items() if journal.used < before]:
                self._open.pop(run_id).close()

    def _open_journal(self, run_id: str, header: Mapping[str, Any]) -> Journal:
        """Open a journal that still has its name once it is locked.

        The replicator removes a journal only while no process has it locked, but may do so between
        the opening and the locking.
        """
        for _ in range(ATTEMPTS):
            opened = Journal(self.path(run_id), header)
            if opened.linked():
                self._start_closer()
                return opened
            opened.close()
        journal = f"the journal of run {run_id} in {self.folder}"
        raise JournalError(f"{journal} is removed whenever it is opened")

    def _start_closer(self) -> None:
        if self._closes_idle and (self._closer is None or not self._closer.is_alive()):
            arguments = (weakref.ref(self),)
            self._closer = threading.Thread(
                target=_close_idle_journals, args=arguments, name="mlflow-wandb", daemon=True
            )
            self._closer.start()

    def _in_child(self) -> None:
        """In a forked child, close the parent's files: the parent keeps them open."""
        for journal in self._open.values():
            journal.close()
        self._open = {}
        self._lock = threading.Lock()
        self._closer = None


def _close_idle_journals(journals: weakref.ref[Journals]) -> None:
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


class RunFiles:
    """The content of one run's files, kept beside its journal until W&B has it.

    Raises from every method:
        OSError: a file is gone, the disk is full, or the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open_new(self, name: str) -> BinaryIO:
        """Open a new file for the content of the file ``name``."""
        file: BinaryIO = open_private(self._new_path(name), "wb")
        return file

    def keep(self, source: Path, stored: bool) -> str:
        """Keep the present content of a file; returns the name of the kept file.

        An artifact store's own copy (``stored``) is linked: before MLflow overwrites it, it is
        replaced by a copy. A link has the mode that MLflow gave the file; the folder keeps other
        users out. Other files may be written into at any time, and are copied.
        """
        kept = self._new_path(source.name)
        try:
            (link_or_copy if stored else copy_file)(source, kept)
        except OSError:
            kept.unlink(missing_ok=True)
            raise
        return kept.name

    def path(self, kept: str) -> Path:
        """Where the kept file of the name ``kept`` is."""
        return self._folder / Path(kept).name

    def _new_path(self, name: str) -> Path:
        """A path with the extension of ``name``, from which W&B tells a file's format."""
        private_folder(self._folder, tighten=True)
        suffix = Path(name).suffix
        kept = suffix if _SUFFIX.fullmatch(suffix) else ""
        return self._folder / f"{uuid.uuid4().hex}{kept}"
