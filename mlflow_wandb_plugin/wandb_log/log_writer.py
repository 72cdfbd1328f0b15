"""Write ``.wandb`` transaction logs, as wandb-core does."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from types import TracebackType

from mlflow_wandb_plugin.wandb_log.framing import (
    BLOCK,
    CHUNK_HEADER,
    FILE_HEADER,
    FIRST,
    FULL,
    LAST,
    MIDDLE,
    TYPE_CRC,
)


class LogWriter:
    """Writes a ``.wandb`` file that wandb's own reader accepts. Not thread-safe.

    Args:
        path: a file that does not exist yet; it is created with mode 0600.
        buffer_size: bytes that `append` may hold back until `close`; 0 hands each record to the
            operating system before `append` returns.
    """

    def __init__(self, path: Path, buffer_size: int = 0) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = open(fd, "wb", buffering=buffer_size)  # noqa: SIM115 - closed by close()
        self._file.write(FILE_HEADER)
        self._position = len(FILE_HEADER)

    def append(self, payload: bytes) -> int:
        """Append one record and return the file offset after it."""
        out = bytearray()
        rest = memoryview(payload)
        first = True
        while first or rest:
            left = BLOCK - (self._position + len(out)) % BLOCK
            if left < CHUNK_HEADER.size:
                out += bytes(left)
                left = BLOCK
            size = min(len(rest), left - CHUNK_HEADER.size)
            piece, rest = rest[:size], rest[size:]
            kind = (FULL if not rest else FIRST) if first else (LAST if not rest else MIDDLE)
            out += CHUNK_HEADER.pack(zlib.crc32(piece, TYPE_CRC[kind]), size, kind)
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
