"""The journal: what a training process appends and a replicator follows, one file a run.

A frame is a 12-byte header (magic, kind, payload length, crc32 over kind and payload) and its
payload, appended with a single `os.write` to a file opened with O_APPEND: it survives the death
of the process the moment `append` returns, and forked children may append too.

Beside ``NAME.journal`` stand ``NAME.status`` (JSON, written by whoever ships the journal) and
``NAME.lock`` (held by whoever ships it). The trainer holds a shared lock on the journal itself:
while that lock is held the run goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_wandb_plugin.core.model import Damage
from mlflow_wandb_plugin.errors import JournalError

FORMAT = 1
MAGIC = 0xB57A
HEADER, RECORD, NOTE = 1, 2, 3
"""Kinds of frames: the journal's JSON header, a W&B record, a JSON note (closed, forked, …)."""

SUFFIX = ".journal"
READ_SIZE = 1024 * 1024
_frame = struct.Struct("<HHII")


class Frame(NamedTuple):
    """One frame and the file offset just behind it."""

    end: int
    kind: int
    payload: bytes

    def document(self) -> dict[str, Any]:
        """The payload of a HEADER or NOTE frame."""
        document: dict[str, Any] = json.loads(self.payload)
        return document


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
        frame = _frame.pack(MAGIC, kind, len(payload), crc) + payload
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


class JournalReader:
    """Reads a journal, also while it grows. Same contract as `translog.framing.LogReader`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.damage: list[Damage] = []

    def read(self) -> Iterator[Frame]:
        """Yield the frames that were completed since the last call.

        Raises:
            JournalError: the file cannot be opened.
        """
        try:
            file = open(self.path, "rb")  # noqa: SIM115 - the with is below
        except OSError as error:
            raise JournalError(f"cannot read {self.path}: {error.strerror}") from error
        with file:
            file.seek(self.position)
            base, buffer = self.position, b""
            while data := file.read(READ_SIZE):
                buffer = buffer + data if buffer else data
                yield from self._frames(buffer, base)
                buffer = buffer[self.position - base :]
                base = self.position

    def finish(self) -> None:
        """Nothing more will come: an unfinished frame at the end is damage."""
        try:
            left = self.path.stat().st_size - self.position
        except OSError:
            return
        if left > 0:
            reason = "the journal ends inside a record"
            self.damage.append(Damage(str(self.path), self.position, left, reason))
            self.position += left

    def _frames(self, buffer: bytes, base: int) -> Iterator[Frame]:
        at, end = 0, len(buffer)
        while at + _frame.size <= end:
            magic, kind, size, crc = _frame.unpack_from(buffer, at)
            stop = at + _frame.size + size
            if magic == MAGIC and stop > end:
                if self._next_frame(buffer, at + 1) < 0:
                    return
                whole = False
            else:
                payload = buffer[at + _frame.size : stop]
                whole = magic == MAGIC and zlib.crc32(payload, kind) == crc
            if whole:
                at = stop
                self.position = base + at
                yield Frame(self.position, kind, payload)
                continue
            # A torn frame (disk full, then space again): go on at the next sound one.
            following = self._next_frame(buffer, at + 1)
            if following < 0:
                return
            self.damage.append(
                Damage(str(self.path), base + at, following - at, "a record is not whole")
            )
            at = following
            self.position = base + at

    @staticmethod
    def _next_frame(buffer: bytes, at: int) -> int:
        """Offset of the next frame in ``buffer`` whose checksum holds, or -1."""
        magic = MAGIC.to_bytes(2, "little")
        while (at := buffer.find(magic, at)) >= 0 and at + _frame.size <= len(buffer):
            _, kind, size, crc = _frame.unpack_from(buffer, at)
            stop = at + _frame.size + size
            if stop <= len(buffer) and zlib.crc32(buffer[at + _frame.size : stop], kind) == crc:
                return at
            at += 1
        return -1


def read_header(path: Path) -> dict[str, Any]:
    """The journal's first frame.

    Raises:
        JournalError: there is none, or it was written by a newer version.
    """
    for frame in JournalReader(path).read():
        if frame.kind == HEADER:
            header = frame.document()
            if header.get("format") != FORMAT:
                message = f"{path} was written by another version of mlflow-wandb-plugin: update it"
                raise JournalError(message)
            return header
        break
    raise JournalError(f"{path} holds no journal")


def trainer_alive(path: Path) -> bool:
    """Whether a process still has the journal open for writing. False when it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    with _asking(path.parent):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
    return False


@contextlib.contextmanager
def _asking(folder: Path) -> Iterator[None]:
    """One asks at a time: the lock that asking takes looks like a trainer's to another."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            # Not every network file system locks folders; then two may meet, once in a while.
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def shipping_lock(path: Path) -> Iterator[bool]:
    """Hold the right to ship a journal; yields False when another process has it."""
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def read_status(path: Path) -> dict[str, Any]:
    """What the shipper of journal ``path`` last said; empty when it said nothing yet."""
    try:
        status = json.loads(path.with_suffix(".status").read_text())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def write_status(path: Path, status: Mapping[str, Any]) -> None:
    """Replace the status of journal ``path`` in one step."""
    target = path.with_suffix(".status")
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(status, file)
    os.replace(temporary, target)


def remove(path: Path) -> None:
    """Delete a journal that has been shipped, and its lock. The status stays."""
    for file in (path, path.with_suffix(".lock")):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
