"""Disks that are full or read-only, as root makes them on Linux: small tmpfs, read-only mounts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FILLER = ".filler"


def can_mount() -> bool:
    """Whether this process may mount file systems."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder), 1):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of its own in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    _call("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder)
    try:
        yield folder
    finally:
        _call("umount", "-l", folder)


def fill(folder: Path) -> None:
    """Take all that is free of the file system of ``folder``."""
    with open(folder / FILLER, "wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1 << 6, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass


def free(folder: Path) -> None:
    """Undo `fill`."""
    (folder / FILLER).unlink(missing_ok=True)


def make_read_only(folder: Path) -> None:
    """Let no process create or open a file of ``folder`` for writing; open files stay writable."""
    _call("mount", "--bind", folder, folder)
    _call("mount", "-o", "remount,bind,ro", folder)


def make_writable(folder: Path) -> None:
    """Undo `make_read_only`."""
    _call("umount", "-l", folder)


def _call(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
