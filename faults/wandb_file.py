"""Rows of a ``.wandb`` file, read without the package: W&B's own word for what it has.

The file is LevelDB's log format: a header of 7 bytes, then blocks of 32 KiB of records, each with a
checksum (4 bytes), a length (2) and a type (1: full, 2: first, 3: middle, 4: last).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER, BLOCK, RECORD_HEADER = 7, 32 * 1024, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def payloads(data: bytes) -> Iterator[bytes]:
    """The records of a log, up to the first that is not whole."""
    position, parts = FILE_HEADER, b""
    while position + RECORD_HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < RECORD_HEADER:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        begin = position + RECORD_HEADER
        if kind not in (FULL, FIRST, MIDDLE, LAST) or begin + length > len(data):
            return
        parts = (b"" if kind in (FULL, FIRST) else parts) + data[begin : begin + length]
        if kind in (FULL, LAST):
            yield parts
        position = begin + length


def records(path: Path) -> Iterator[Record]:
    """The records of a log, up to the first that is damaged."""
    for payload in payloads(path.read_bytes()):
        try:
            yield Record.FromString(payload)
        except DecodeError:
            return


def steps(path: Path) -> set[int]:
    """The steps of the history rows that wandb-core has written."""
    rows = (one for one in records(path) if one.WhichOneof("record_type") == "history")
    return {int(row.history.step.num) for row in rows}


def has_end(path: Path) -> bool:
    """Whether wandb-core has written how the run ended."""
    return any(record.WhichOneof("record_type") == "exit" for record in records(path))
