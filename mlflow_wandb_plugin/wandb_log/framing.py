"""Read the records of a ``.wandb`` file, also while it grows.

The layout is LevelDB's log format after W&B's own file header. A file is a sequence of 32 KiB
blocks, counted from the start of the file. A chunk is a 7-byte header (crc32 over type byte and
payload, payload length, type) and its payload; a record is one FULL chunk or a FIRST, any MIDDLE
and a LAST. A block's last bytes are left empty when no header fits.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from itertools import starmap
from pathlib import Path
from typing import NamedTuple

from mlflow_wandb_plugin.core.model import UnreadableRange
from mlflow_wandb_plugin.errors import SourceError

MAGIC = b":W&B"
VERSION = 0
FILE_HEADER = MAGIC + struct.pack("<HB", 0xBEE1, VERSION)
BLOCK = 32 * 1024
READ_SIZE = 1024 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
CUT_SHORT = "a record without its end"

CHUNK_HEADER = struct.Struct("<IHB")
TYPE_CRC = {kind: zlib.crc32(bytes([kind])) for kind in range(5)}


class Frame(NamedTuple):
    """A record's payload and the file offset after it."""

    end: int
    payload: bytes


class _Chunk(NamedTuple):
    """One chunk of a buffer.

    Attributes:
        next: where to continue, also after a damaged chunk.
        payload: None if the chunk is damaged.
        damage: why; empty for unused zeros, which are no damage.
    """

    kind: int
    next: int
    payload: bytes | None
    damage: str = ""


class LogReader:
    """Reads a ``.wandb`` file, also while it grows.

    `read` yields the complete records and returns at the end of the file; call it again for what
    was appended since. Damage inside the file is skipped up to the next block and kept in
    `unreadable`. An unfinished record at the end counts as damage only after `finish`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable: list[UnreadableRange] = []
        self.position = len(FILE_HEADER)
        self._header_seen = False

    def read(self) -> Iterator[Frame]:
        """Yield records that were completed since the last call.

        Raises:
            SourceError: the file cannot be opened or does not start like a transaction log.
        """
        for records in self.read_many():
            yield from starmap(Frame, records)

    def size(self) -> int:
        """Size of the file in bytes, as it is now; 0 if there is none."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def read_many(self, until: int | None = None) -> Iterator[list[tuple[int, bytes]]]:
        """As `read`, in lists of bare tuples: a `Frame` a record takes a tenth of the time.

        Args:
            until: the file offset at which to stop, as if the file ended there.

        Raises:
            SourceError: as `read`.
        """
        try:
            file = open(self.path, "rb")  # noqa: SIM115 - the with is below
        except OSError as error:
            raise SourceError(f"cannot read {self.path}: {error.strerror}") from error
        with file:
            if not self._header_seen and not self._check_header(file.read(len(FILE_HEADER))):
                return
            file.seek(self.position)
            base, buffer = self.position, b""
            # The unread part of a large record doubles each round, so that it is parsed few times.
            until = sys.maxsize if until is None else until
            while data := file.read(min(max(READ_SIZE, len(buffer)), max(0, until - file.tell()))):
                buffer = buffer + data if buffer else data
                yield from self._records(buffer, base)
                buffer = buffer[self.position - base :]
                base = self.position

    def finish(self) -> None:
        """Report what is left after the last record as damage: nothing more will be appended."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return
        left = size - self.position
        if self._header_seen and left > 0 and any(self._tail()):
            reason = "the log ends inside a record"
            self.unreadable.append(UnreadableRange(str(self.path), self.position, left, reason))
            self.position = size
        elif not self._header_seen:
            self.unreadable.append(
                UnreadableRange(str(self.path), 0, size, "no header: an empty log")
            )

    def _tail(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.position)
            return file.read(READ_SIZE)

    def _check_header(self, header: bytes) -> bool:
        if len(header) < len(FILE_HEADER):
            if FILE_HEADER.startswith(header):
                return False
        elif header[:4] == MAGIC and header[6] <= VERSION:
            self._header_seen = True
            return True
        raise SourceError(f"{self.path} is not a W&B transaction log (its header is {header!r})")

    def _records(self, buffer: bytes, base: int) -> Iterator[list[tuple[int, bytes]]]:
        """Parse ``buffer``, which starts at file offset ``base``; advances `position`.

        Yields what was found before each damaged range, so that a caller that reports damage of its
        own keeps the order of the log.
        """
        at, end = 0, len(buffer)
        found: list[tuple[int, bytes]] = []
        parts: list[bytes] = []
        while True:
            left = BLOCK - (base + at) % BLOCK
            if left < 7:
                at += left
                if not parts and at <= end:
                    self.position = base + at
                continue
            next_block = at + left
            if not parts and at <= end:
                at = _take_full_records(buffer, at, min(next_block, end), base, found)
                self.position = base + at
                if next_block - at < 7:
                    continue
            chunk = _chunk(buffer, at, next_block, inside_record=bool(parts))
            if chunk is None:
                break
            if chunk.payload is None or (chunk.kind in (FULL, FIRST) and parts):
                if reason := chunk.damage if chunk.payload is None else CUT_SHORT:
                    yield found
                    found = []
                    self._add_damage(base + (chunk.next if chunk.payload is None else at), reason)
                parts = []
            at = chunk.next
            if chunk.payload is None:
                self.position = base + at
                continue
            parts.append(chunk.payload)
            if chunk.kind in (FULL, LAST):
                self.position = base + at
                found.append((self.position, b"".join(parts)))
                parts = []
        yield found

    def _add_damage(self, until: int, reason: str) -> None:
        """Report `position` to ``until`` as damage, joined with the damaged range before it."""
        start = self.position
        if self.unreadable and self.unreadable[-1].offset + self.unreadable[-1].length == start:
            before = self.unreadable.pop()
            start, reason = before.offset, before.reason
        self.unreadable.append(UnreadableRange(str(self.path), start, until - start, reason))
        self.position = until


def _take_full_records(
    buffer: bytes, at: int, end: int, base: int, found: list[tuple[int, bytes]]
) -> int:
    """Append the consecutive records from ``at`` that are one sound FULL chunk each to ``found``.

    Nearly all records are. Returns where something else begins, at most ``end``.
    """
    unpack, crc32, full_crc = CHUNK_HEADER.unpack_from, zlib.crc32, TYPE_CRC[FULL]
    last_header = end - CHUNK_HEADER.size
    while at <= last_header:
        crc, size, kind = unpack(buffer, at)
        stop = at + 7 + size
        if kind != FULL or stop > end:
            break
        payload = buffer[at + 7 : stop]
        if crc32(payload, full_crc) != crc:
            break
        found.append((base + stop, payload))
        at = stop
    return at


def _chunk(buffer: bytes, at: int, next_block: int, inside_record: bool) -> _Chunk | None:
    """Return the chunk at ``at``; None if it may be complete only once the file has grown.

    Args:
        next_block: where the block of ``at`` ends in the buffer.
        inside_record: whether the chunks before it are an unfinished record.
    """
    end = len(buffer)
    if at + 7 > end:
        return None
    crc, size, kind = CHUNK_HEADER.unpack_from(buffer, at)
    stop = at + 7 + size
    if stop > next_block or not 1 <= kind <= 4:
        if next_block > end:
            return None
        if any(buffer[at:next_block]):
            return _Chunk(kind, next_block, None, "impossible chunk header")
        return _Chunk(kind, next_block, None, CUT_SHORT if inside_record else "")
    if stop > end:
        return None
    payload = buffer[at + 7 : stop]
    if zlib.crc32(payload, TYPE_CRC[kind]) != crc:
        resume = stop if _sound_chunk(buffer, stop, next_block) else next_block
        return None if resume > end else _Chunk(kind, resume, None, "checksum mismatch")
    if kind in (MIDDLE, LAST) and not inside_record:
        return _Chunk(kind, stop, None, "a record without its beginning")
    return _Chunk(kind, stop, payload)


def _sound_chunk(buffer: bytes, at: int, next_block: int) -> bool:
    """Whether a complete chunk with a right checksum is at ``at``, so that reading can resume."""
    limit = min(next_block, len(buffer))
    if at + 7 > limit:
        return False
    crc, size, kind = CHUNK_HEADER.unpack_from(buffer, at)
    stop = at + 7 + size
    if stop > limit or not 1 <= kind <= 4:
        return False
    return bool(zlib.crc32(buffer[at + 7 : stop], TYPE_CRC[kind]) == crc)
