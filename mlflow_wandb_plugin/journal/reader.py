"""Read a journal, also while it grows."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import UnreadableRange
from mlflow_wandb_plugin.core.private_files import open_private
from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal.frames import FORMAT, FRAME_HEADER, HEADER, MAGIC, Frame

READ_SIZE = 1024 * 1024
SEARCH_EFFORT = 8
"""Bytes to verify for each byte that is searched for the frame after a damaged one."""


class JournalReader:
    """Reads a journal, also while it grows.

    Attributes:
        position: offset behind the last frame that was read.
        unreadable: damaged ranges that were skipped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.unreadable: list[UnreadableRange] = []

    def read(self) -> Iterator[Frame]:
        """Yield the frames that were completed since the last call.

        Raises:
            JournalError: the file cannot be opened.
        """
        try:
            file = open_private(self.path)
        except OSError as error:
            raise JournalError(f"cannot read {self.path}: {error.strerror}") from error
        with file:
            size = os.fstat(file.fileno()).st_size
            file.seek(self.position)
            base, buffer = self.position, b""
            # The unread part of a large record doubles each round, so that few rounds search it.
            while data := file.read(max(READ_SIZE, len(buffer))):
                buffer = buffer + data if buffer else data
                yield from self._frames(buffer, base, size)
                buffer = buffer[self.position - base :]
                base = self.position

    def finish(self) -> None:
        """Count an incomplete frame at the end as damage, because nothing more will be appended."""
        try:
            left = self.path.stat().st_size - self.position
        except OSError:
            return
        if left > 0:
            reason = "the journal ends inside a record"
            self.unreadable.append(UnreadableRange(str(self.path), self.position, left, reason))
            self.position += left

    def _frames(self, buffer: bytes, base: int, file_size: int) -> Iterator[Frame]:
        at = 0
        while at + FRAME_HEADER.size <= len(buffer):
            if (found := _frame_at(buffer, at)) is not None:
                kind, payload = found
                at += FRAME_HEADER.size + len(payload)
                self.position = base + at
                yield Frame(self.position, kind, payload)
                continue
            if len(buffer) < _end(buffer, at) <= file_size - base:
                return
            # An incomplete frame (disk full, then space again): go on at the next valid one.
            following = _next_frame(buffer, at + 1)
            if following < 0:
                return
            self.unreadable.append(
                UnreadableRange(str(self.path), base + at, following - at, "a record is incomplete")
            )
            at = following
            self.position = base + at


def _end(buffer: bytes, at: int) -> int:
    """Where the frame at ``at`` ends in the buffer or behind it; 0 if there is no header."""
    magic, _, size, _ = FRAME_HEADER.unpack_from(buffer, at)
    return at + FRAME_HEADER.size + int(size) if magic == MAGIC else 0


def _frame_at(buffer: bytes, at: int) -> tuple[int, bytes] | None:
    """Kind and payload of the frame at ``at``; None unless it is complete and undamaged."""
    magic, kind, size, crc = FRAME_HEADER.unpack_from(buffer, at)
    begin = at + FRAME_HEADER.size
    if magic != MAGIC or begin + size > len(buffer):
        return None
    payload = buffer[begin : begin + size]
    return (kind, payload) if zlib.crc32(payload, kind) == crc else None


def _next_frame(buffer: bytes, at: int) -> int:
    """Offset of the next complete frame in ``buffer``, or -1.

    A payload may be made of what looks like headers of long frames: the search ends when it has
    verified several times as many bytes as there are.
    """
    magic = MAGIC.to_bytes(2, "little")
    left = SEARCH_EFFORT * len(buffer)
    while (at := buffer.find(magic, at)) >= 0 and at + FRAME_HEADER.size <= len(buffer):
        if (end := _end(buffer, at)) <= len(buffer):
            left -= end - at
            if left < 0:
                return -1
            if _frame_at(buffer, at) is not None:
                return at
        at += 1
    return -1


def read_header(path: Path) -> dict[str, Any]:
    """The JSON document in the journal's first frame.

    Raises:
        JournalError: there is none, or another version of this package wrote it.
    """
    first = next(JournalReader(path).read(), None)
    if first is None or first.kind != HEADER:
        raise JournalError(f"{path} holds no journal")
    header = first.document()
    if header.get("format") != FORMAT:
        message = f"{path} was written by another version of mlflow-wandb-plugin: update it"
        raise JournalError(message)
    return header
