"""Append to a journal."""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.locks import lock
from mlflow_wandb_plugin.core.private_files import open_fd
from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal.frames import FORMAT, FRAME_HEADER, HEADER, MAGIC, NOTE
from mlflow_wandb_plugin.journal.journal_folder import open_folder

FOLDER_TRIES = 5
"""A replicator that ends removes an empty folder, maybe just before a journal is created in it."""


class Journal:
    """A journal that is open for appending.

    Thread-safe and fork-safe: each append is one system call.

    Attributes:
        used: time of the last append, of `time.monotonic`.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Create ``path`` with mode 0600, or append to it after a fork or restart.

        Raises:
            JournalError: the folder or file cannot be written.
        """
        self.path = path
        try:
            self._fd = _open(path)
            lock(self._fd, shared=True)
        except OSError as error:
            raise JournalError(f"cannot write the journal {path}: {error.strerror}") from error
        self.append(HEADER, json.dumps({"format": FORMAT, **header}).encode())

    def append(self, kind: int, payload: bytes) -> None:
        """Append one frame.

        Raises:
            JournalError: it was not written completely (disk full, file gone).
        """
        crc = zlib.crc32(payload, kind)
        frame = FRAME_HEADER.pack(MAGIC, kind, len(payload), crc) + payload
        try:
            written = os.write(self._fd, frame)
        except OSError as error:
            raise JournalError(f"cannot write {self.path}: {error.strerror}") from error
        if written != len(frame):
            raise JournalError(f"cannot write {self.path}: the disk took only part of a record")
        self.used = time.monotonic()

    def note(self, **fields: Any) -> None:
        self.append(NOTE, json.dumps(fields).encode())

    def linked(self) -> bool:
        """Whether the file still has its name: the process that ships a journal removes it."""
        return os.fstat(self._fd).st_nlink > 0

    def close(self) -> None:
        """Close the file and release its lock: this process appends no more."""
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd = -1


def _open(path: Path) -> int:
    for _ in range(FOLDER_TRIES):
        open_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):
            return open_fd(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return open_fd(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
