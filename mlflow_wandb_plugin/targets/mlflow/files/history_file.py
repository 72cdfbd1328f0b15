"""The document of history values that are not numbers: ``wandb/history.jsonl``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from typing import TextIO

from mlflow_wandb_plugin.core.model import RowObjects, nest, row_leaves
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

    def rows(self, text: str) -> Iterator[RowObjects]:
        """Yield the rows of the lines of a document of an earlier session that have typed values;
        a line that was damaged in MLflow has none."""
        for line in text.split("\n"):
            if '"_type"' in line:
                with contextlib.suppress(ValueError, KeyError, AttributeError, TypeError):
                    document = json.loads(line)
                    step, at_ms = int(document.pop("_step")), int(document.pop("_timestamp_ms"))
                    yield RowObjects(step, at_ms, row_leaves(document))

    def clear(self) -> None:
        """Begin without the lines of earlier sessions."""
        self._known_lines.clear()
        if self._file is not None:
            self._file.truncate(0)
        self._saved_size = 0

    def add(self, row: RowObjects) -> bool:
        """Add the line of a row, unless it is there: a log may be read again. Returns whether it
        was added."""
        document = nest(row.values)
        line = canonical_json({"_step": row.step, "_timestamp_ms": row.timestamp_ms, **document})
        digest = _digest(line)
        if digest in self._known_lines:
            return False
        self._known_lines.add(digest)
        self._write(line + "\n")
        return True

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
