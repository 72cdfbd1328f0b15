"""Replace files in one step: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from mlflow_wandb_plugin.core.private_files import open_private

FICLONE = 0x40049409
"""Linux's request to let a file share the blocks of another one."""
COPIED_BYTES = 1024 * 1024


@contextlib.contextmanager
def replaced(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield the path of a file to write; on success it replaces ``path``, else it is removed.

    Args:
        temporary: the file to write, in the folder of ``path``; by default one of this call alone.
            A process that is killed leaves it: the next one replaces it only if it has one name.
    """
    temporary = temporary or _temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def create_atomically(path: Path, text: str) -> None:
    """Create the file ``path`` with its content in one step, with mode 0600.

    Raises:
        FileExistsError: another process did.
        OSError: the folder cannot be written.
    """
    temporary = _temporary_path(path)
    try:
        with open_private(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str, *, mode: int = 0o666, sync: bool = False) -> None:
    """Replace the file ``path`` with ``text`` in UTF-8.

    Args:
        mode: permission bits of the file, less the process's umask.
        sync: whether the content must be on the disk before the old content is replaced.

    Raises:
        OSError: the file cannot be written; ``path`` is as it was.
    """
    with replaced(path) as temporary:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of replacing ``path``; no process may be writing it."""
    for unfinished in path.parent.glob(f".{glob.escape(path.name[:100])}.*.tmp"):
        unfinished.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link of ``source``, or a copy where the file system cannot link.

    Only for files that nobody writes into: what is written into one shows in the other.

    Raises:
        OSError: ``target`` exists and is read-only, ``source`` is gone, or the disk is full.
    """
    try:
        os.link(source, target)
    except OSError:
        copy_file(source, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy the present content of ``source`` into a file with mode 0600; Linux's file systems that
    can share its blocks do.

    Raises:
        OSError: ``target`` cannot be written, ``source`` is gone, or the disk is full.
    """
    with open(source, "rb") as content, open_private(target, "wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), FICLONE, content.fileno())
        except OSError:
            shutil.copyfileobj(content, copy, COPIED_BYTES)
