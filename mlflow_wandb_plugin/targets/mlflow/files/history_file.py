"""The document of history values that are not numbers: ``wandb/history.jsonl``."""

from __future__ import annotations

import hashlib
import os
from typing import TextIO

from mlflow_wandb_plugin.core.model import RowObjects, nest
from mlflow_wandb_plugin.mapping.documents import HISTORY_FILE, canonical_json
from mlflow_wandb_plugin.targets.mlflow.files.uploads import Uploads

LOCAL_NAME = "history.jsonl"


class HistoryFile:
    """Collects lines in a local file, which is uploaded as one artifact."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._file: TextIO | None = None
        self._known_lines: set[bytes] = set()
        self._saved_size = 0

    def load(self, text: str) -> None:
        """Begin with the lines that an earlier session uploaded."""
        self._known_lines = set(map(_digest, text.split("\n")))
        self._write(text)
        self._saved_size = self._size()

    def clear(self) -> None:
        """Begin without the lines of earlier sessions."""
        self._known_lines.clear()
        if self._file is not None:
            self._file.truncate(0)
        self._saved_size = 0

    def add(self, row: RowObjects) -> None:
        """Add the line of a row, unless it is there: a log may be read again."""
        document = nest(row.values)
        line = canonical_json({"_step": row.step, "_timestamp_ms": row.timestamp_ms, **document})
        digest = _digest(line)
        if digest not in self._known_lines:
            self._known_lines.add(digest)
            self._write(line + "\n")

    def has_grown(self) -> bool:
        """Whether there are lines that are not uploaded."""
        return self._size() > self._saved_size

    def has_doubled(self) -> bool:
        """Whether the file is twice as large as the uploaded one. Each upload sends all lines:
        these are few uploads, however many lines come."""
        return self._size() >= 2 * self._saved_size

    def upload(self) -> None:
        """Upload the lines, if there are any."""
        self._saved_size = self._size()
        if self._saved_size:
            local = self._uploads.folder / LOCAL_NAME
            self._uploads.upload(local, HISTORY_FILE, "document_missing")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, text: str) -> None:
        if self._file is None:
            self._file = open(self._uploads.folder / LOCAL_NAME, "a", encoding="utf-8")  # noqa: SIM115
        self._file.write(text)

    def _size(self) -> int:
        """Size of the local file in bytes."""
        if self._file is None:
            return 0
        self._file.flush()
        return os.fstat(self._file.fileno()).st_size


def _digest(line: str) -> bytes:
    return hashlib.blake2b(line.encode("utf-8", "surrogatepass"), digest_size=16).digest()
