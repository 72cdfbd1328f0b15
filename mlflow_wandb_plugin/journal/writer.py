"""The writing end of a journal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal.frames import FORMAT, FRAME_HEADER, HEADER, MAGIC, NOTE


class Journal:
    """The writing end. Thread-safe and fork-safe: each append is one system call."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Create ``path`` with mode 0600, or go on with it after a fork or restart.

        Raises:
            JournalError: the folder or file cannot be written; the message says why.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_SH)
        except OSError as error:
            raise JournalError(f"cannot write the journal {path}: {error.strerror}") from error
        self.append(HEADER, json.dumps({"format": FORMAT, **header}).encode())

    def append(self, kind: int, payload: bytes) -> None:
        """Append one frame.

        Raises:
            JournalError: it was not written whole (disk full, file gone).
        """
        crc = zlib.crc32(payload, kind)
        frame = FRAME_HEADER.pack(MAGIC, kind, len(payload), crc) + payload
        try:
            written = os.write(self._fd, frame)
        except OSError as error:
            raise JournalError(f"cannot write {self.path}: {error.strerror}") from error
        if written != len(frame):
            raise JournalError(f"cannot write {self.path}: the disk took only part of a record")

    def note(self, **what: Any) -> None:
        """Append a JSON note."""
        self.append(NOTE, json.dumps(what).encode())

    def linked(self) -> bool:
        """Whether the file still has its name: whoever ships a journal removes it in the end."""
        return os.fstat(self._fd).st_nlink > 0

    def close(self) -> None:
        """Let go of the file: readers see that this process appends no more."""
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd = -1
