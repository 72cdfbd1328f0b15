"""Locks of a journal: whether its writer lives, and who ships it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


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


def remove_journal(path: Path) -> None:
    """Delete a journal that has been shipped, and its lock. The status stays."""
    for file in (path, path.with_suffix(".lock")):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
