"""The framing of a ``.wandb`` file: write, read, follow.

The layout is LevelDB's log format under W&B's own file header. A file is a sequence of 32 KiB
blocks, counted from the start of the file. A chunk is a 7-byte header (crc32 over type byte and
payload, payload length, type) and its payload; a record is one FULL chunk or a FIRST, any MIDDLE
and a LAST. A block's last bytes are left empty when no header fits.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import starmap
from pathlib import Path
from types import TracebackType
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

_chunk_header = struct.Struct("<IHB")
_type_crc = {kind: zlib.crc32(bytes([kind])) for kind in range(5)}


class Frame(NamedTuple):
    """A record's payload and the file offset just behind it."""

    end: int
    payload: bytes


class LogWriter:
    """Writes a ``.wandb`` file that wandb's own reader accepts.

    Each record is handed to the operating system before `append` returns. Not thread-safe.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by close()
        self._file.write(FILE_HEADER)
        self._position = len(FILE_HEADER)

    def append(self, payload: bytes) -> int:
        """Append one record and return the file offset behind it."""
        out = bytearray()
        rest = memoryview(payload)
        first = True
        while first or rest:
            room = BLOCK - (self._position + len(out)) % BLOCK
            if room < _chunk_header.size:
                out += bytes(room)
                room = BLOCK
            size = min(len(rest), room - _chunk_header.size)
            piece, rest = rest[:size], rest[size:]
            kind = (FULL if not rest else FIRST) if first else (LAST if not rest else MIDDLE)
            out += _chunk_header.pack(zlib.crc32(piece, _type_crc[kind]), size, kind)
            out += piece
            first = False
        self._file.write(out)
        self._position += len(out)
        return self._position

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


class LogReader:
    """Reads a ``.wandb`` file, also while it grows.

    `read` yields the records that are whole and returns at the end of what is there; call it
    again for what has come since. Damage inside the file is skipped up to the next block and
    kept in `unreadable`; an unfinished record at the end is not damage until `finish` says that
    nothing more will come.
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

    def read_many(self) -> Iterator[list[tuple[int, bytes]]]:
        """As `read`, many frames at once, as bare tuples: an object a record is a tenth of reading.

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
            # What is left of a large record grows with each round, and so does what is read.
            while data := file.read(max(READ_SIZE, len(buffer))):
                buffer = buffer + data if buffer else data
                yield from self._records(buffer, base)
                buffer = buffer[self.position - base :]
                base = self.position

    def finish(self) -> None:
        """Nothing more will come: whatever is left behind the last record is damage."""
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
        """Parse ``buffer``, which starts at file offset ``base``; advances `position`."""
        at, end = 0, len(buffer)
        found: list[tuple[int, bytes]] = []
        parts: list[bytes] = []
        while True:
            room = BLOCK - (base + at) % BLOCK
            if room < 7:
                at += room
                if not parts and at <= end:
                    self.position = base + at
                continue
            next_block = at + room
            if not parts and at <= end:
                at = _take_full_records(buffer, at, min(next_block, end), base, found)
                self.position = base + at
                if next_block - at < 7:
                    continue
            if at + 7 > end:
                break
            crc, size, kind = _chunk_header.unpack_from(buffer, at)
            stop = at + 7 + size
            if stop > next_block or not 1 <= kind <= 4:
                sound, reason, resume = False, "impossible chunk header", next_block
                if not any(buffer[at:next_block]):
                    reason = CUT_SHORT if parts else ""
            elif stop > end:
                break
            else:
                payload = buffer[at + 7 : stop]
                sound, reason, resume = zlib.crc32(payload, _type_crc[kind]) == crc, "", stop
                if not sound:
                    reason = "checksum mismatch"
                    resume = stop if _sound_chunk(buffer, stop, next_block) else next_block
                elif kind in (MIDDLE, LAST) and not parts:
                    sound, reason = False, "a record without its beginning"
            if not sound:
                if resume > end:
                    # It reaches into what is not written yet: finish() will report it.
                    break
                parts = []
                if reason:
                    # Whoever reads adds damage of its own: both in the log's order.
                    yield found
                    found = []
                    self._lose(base + resume, reason)
                at = resume
                self.position = base + at
                continue
            if kind in (FULL, FIRST) and parts:
                yield found
                found = []
                self._lose(base + at, CUT_SHORT)
                parts = []
            at = stop
            parts.append(payload)
            if kind in (FULL, LAST):
                self.position = base + at
                found.append((self.position, parts[0] if kind == FULL else b"".join(parts)))
                parts = []
        yield found

    def _lose(self, until: int, reason: str) -> None:
        """Count what lies between `position` and ``until`` as damage, as one with its neighbour."""
        start = self.position
        if self.unreadable and self.unreadable[-1].offset + self.unreadable[-1].length == start:
            before = self.unreadable.pop()
            start, reason = before.offset, before.reason
        self.unreadable.append(UnreadableRange(str(self.path), start, until - start, reason))
        self.position = until


def _take_full_records(
    buffer: bytes, at: int, end: int, base: int, found: list[tuple[int, bytes]]
) -> int:
    """Add the records that follow each other from ``at`` as one sound chunk each, as nearly all do;
    returns where something else begins, at ``end`` at the latest."""
    unpack, crc32, full_crc = _chunk_header.unpack_from, zlib.crc32, _type_crc[FULL]
    last_header = end - _chunk_header.size
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


def _sound_chunk(buffer: bytes, at: int, next_block: int) -> bool:
    """Whether a whole chunk with a right checksum stands at ``at``: then it is safe to go on."""
    limit = min(next_block, len(buffer))
    if at + 7 > limit:
        return False
    crc, size, kind = _chunk_header.unpack_from(buffer, at)
    stop = at + 7 + size
    if stop > limit or not 1 <= kind <= 4:
        return False
    return bool(zlib.crc32(buffer[at + 7 : stop], _type_crc[kind]) == crc)
