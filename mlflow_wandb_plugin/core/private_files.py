"""Folders and files that only their owner can read, whatever the process's umask."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.errors import TargetError

FOLDER_MODE, FILE_MODE = 0o700, 0o600


def private_folder(path: Path, *, below: Path | None = None, tighten: bool = False) -> None:
    """Create the folder ``path`` with mode 0700, if it does not exist.

    Args:
        below: the folders between this one and ``path`` are created with mode 0700 as well; others
            that are missing are created by the umask.
        tighten: the folder is of this package's making: other users lose their access to it.

    Raises:
        OSError: it cannot be created.
    """
    if below is not None and path.parent != below and below in path.parents:
        private_folder(path.parent, below=below, tighten=tighten)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(FOLDER_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise
        if tighten:
            _close_to_others(path)


def _close_to_others(path: Path) -> None:
    """Set the mode of a folder or file that is ours; one of another user, or a link, is left."""
    with contextlib.suppress(OSError):
        state = path.lstat()
        folder = stat.S_ISDIR(state.st_mode)
        ours = folder or (stat.S_ISREG(state.st_mode) and state.st_nlink == 1)
        mode = FOLDER_MODE if folder else FILE_MODE
        if ours and state.st_uid == os.geteuid() and stat.S_IMODE(state.st_mode) & ~mode:
            path.chmod(mode)


def is_open_to_others(folder: Path) -> bool:
    """Whether other users have any access to a folder."""
    return bool(stat.S_IMODE(folder.stat().st_mode) & ~FOLDER_MODE)


def close_to_others(path: Path) -> None:
    """Close a file or folder of this package's making, and all in it, to other users.

    What belongs to another user, links, and files with several names are left as they are.
    """
    _close_to_others(path)
    for folder, _, names in os.walk(path):
        _close_to_others(Path(folder))
        for name in names:
            _close_to_others(Path(folder, name))


def open_fd(path: Path | str, flags: int) -> int:
    """As `os.open` with mode 0600; a symbolic link is not followed.

    Raises:
        OSError: the file cannot be opened.
    """
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)


def open_private(path: Path, mode: str = "rb", encoding: str | None = None) -> Any:
    """As `open`: a file that is created has mode 0600, and a symbolic link is not followed."""
    return open(path, mode, encoding=encoding, opener=open_fd)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say which folder of a target cannot be written, where that fails in this context.

    Raises:
        TargetError: it cannot be: the disk is full, or its rights do not allow it.
    """
    try:
        yield
    except OSError as error:
        raise TargetError(f"{folder} cannot be written: {error}") from error
