"""Locks on files, held by an open file descriptor and released when its process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mlflow_wandb_plugin.core.private_files import open_fd

POLL_S = 0.05


def lock(fd: int, shared: bool = False) -> None:
    """As `try_lock`, but wait as long as another process holds a lock that forbids it."""
    fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_lock(fd: int, shared: bool = False) -> bool:
    """Lock an open file without waiting.

    Args:
        fd: file descriptor; closing its last copy releases the lock.
        shared: whether other processes may hold a shared lock on the file at the same time.

    Returns:
        False when another process holds a lock that forbids it.

    Raises:
        OSError: the file system cannot lock.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def file_lock(path: Path, patience_s: float = 0.0, shared: bool = False) -> Iterator[bool]:
    """Hold a lock of the lock file ``path``, which is created with mode 0600.

    Args:
        patience_s: seconds to wait for another process that holds it.
        shared: as for `try_lock`.

    Yields:
        False when another process still holds it.
    """
    fd = open_fd(path, os.O_RDWR | os.O_CREAT)
    deadline = time.monotonic() + patience_s
    try:
        while not (locked := try_lock(fd, shared)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        yield locked
    finally:
        os.close(fd)
