"""File modes, where the process's umask forbids nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def no_umask() -> Iterator[None]:
    """Files that are created have the mode that they are created with."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """What in ``folder``, itself included, is not 0700 for folders and 0600 for files."""
    found = [folder, *sorted(folder.rglob("*"))]
    wanted = {path: 0o700 if path.is_dir() else 0o600 for path in found}
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in found}
    return [f"{path} {modes[path]:o}" for path in found if modes[path] != wanted[path]]
