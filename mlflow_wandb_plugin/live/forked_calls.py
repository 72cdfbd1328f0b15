"""Bring what MLflow's calls log in forked children to the process that opened the W&B run.

A child could log to the W&B run itself; but its rows would take steps that the other process
chooses.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.private_files import private_folder
from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.reader import JournalReader
from mlflow_wandb_plugin.journal.writer import Journal
from mlflow_wandb_plugin.store.journal_writers import RunFiles


class ForkedCalls:
    """A folder in which each child has a journal of `journal.outbox`.

    Args:
        folder: it exists from the first fork to the end of the W&B run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = RunFiles(folder / "files")
        self._journal: tuple[int, Journal] | None = None
        self._readers: dict[Path, JournalReader] = {}
        self._forks = False

    # -- in the process that opened the run -------------------------------------------------------

    def prepare(self) -> None:
        """Create the folder: a child may be forked now."""
        self._forks = True
        private_folder(self._folder)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the operations that children have appended since the last call; a file of the run
        is in ``local``.

        Raises:
            JournalError: a journal cannot be read.
        """
        for path in sorted(self._folder.glob(f"*{frames.SUFFIX}")) if self._forks else ():
            reader = self._readers.setdefault(path, JournalReader(path))
            for _, operation in outbox.operations(reader):
                if "file" in operation:
                    operation["local"] = self._files.path(operation["file"])
                yield operation

    def remove(self) -> None:
        """Remove the folder: the W&B run ends."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- in a forked child ------------------------------------------------------------------------

    def append(self, op: str, **fields: Any) -> None:
        """Append an operation.

        Raises:
            JournalError: the W&B run has ended, or the journal cannot be written.
        """
        if not self._folder.is_dir():
            raise JournalError("the W&B run has ended in the process that opened it")
        pid = os.getpid()
        if self._journal is None or self._journal[0] != pid:
            self._journal = pid, Journal(self._folder / f"{pid}{frames.SUFFIX}", {})
        at_ms = time.time_ns() // 1_000_000
        self._journal[1].append(outbox.OPERATION, outbox.encode(op, at=at_ms, **fields))

    def add_file(self, source: Path, path: str, model: str | None, stored: bool) -> None:
        """Append a file, as `mirrored_runs.MirroredRun.add_file`.

        Raises:
            JournalError: as for `append`.
            OSError: the file cannot be copied.
        """
        self.append("file", path=path, file=self._files.keep(source, stored), model=model)
