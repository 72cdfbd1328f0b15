"""Locks of a journal: whether a process writes it, and which process ships it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from mlflow_wandb_plugin.core.locks import file_lock, lock, try_lock
from mlflow_wandb_plugin.core.private_files import open_fd


def trainer_alive(path: Path) -> bool:
    """Whether a process has the journal open for writing. False when the journal is gone."""
    try:
        fd = open_fd(path, os.O_RDONLY)
    except OSError:
        return False
    with _one_at_a_time(path.parent):
        try:
            return not _lock_unless_written(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time test a journal's lock, because the test looks like a writer."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Not every network file system locks folders; there, two tests may rarely collide.
        with contextlib.suppress(OSError):
            lock(fd)
        yield
    finally:
        os.close(fd)


def _lock_unless_written(fd: int) -> bool:
    """As `try_lock`; a journal on a file system that cannot lock counts as being written."""
    with contextlib.suppress(OSError):
        return try_lock(fd)
    return False


@contextlib.contextmanager
def exclusive_journal(path: Path) -> Iterator[int | None]:
    """Keep writers away from a journal, and yield its size in bytes; None when one has it open.

    A writer that comes meanwhile waits, and then finds that the file was removed.
    """
    fd = open_fd(path, os.O_RDONLY)
    try:
        yield os.fstat(fd).st_size if _lock_unless_written(fd) else None
    finally:
        os.close(fd)


def shipping_lock(path: Path) -> AbstractContextManager[bool]:
    """Hold the right to ship a journal; yields False when another process has it."""
    return file_lock(path.with_suffix(".lock"))


def remove_journal(path: Path) -> None:
    """Delete a journal that has been shipped, and its lock. The status file stays."""
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)
