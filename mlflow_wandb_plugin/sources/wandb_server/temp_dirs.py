"""Temporary files that last as long as somebody holds their path.

A source yields files that it downloaded; a target may read them until it is done with the run,
in threads of its own. Neither knows the other, so the paths themselves keep the files.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path

_LOCK = ".lock"


class RefCountedTempDir:
    """A temporary folder, removed when neither it nor a path that it lent is held any more.

    A process that is killed leaves its folders: the next one removes those that nobody locks.
    """

    def __init__(self, prefix: str) -> None:
        _remove_abandoned(prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._number = 0
        lock = os.open(self.path / "lock", os.O_CREAT | os.O_WRONLY, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Under its name it is locked from the first moment.
        os.rename(self.path / "lock", self.path / _LOCK)
        weakref.finalize(self, _remove, self.path, lock)

    def new(self) -> Path:
        """A new folder in it, whose path keeps nothing."""
        self._number += 1
        folder = self.path / f"{self._number:06d}"
        folder.mkdir()
        return folder

    def lend(self, name: str) -> Path:
        """A path for a file, in a folder of its own, so that no two names can meet."""
        path = _LentPath(self.new() / name)
        path.folder = self
        return path


class _LentPath(type(Path())):  # type: ignore[misc]
    """A path that keeps its folder. Paths derived from it do not."""

    folder: RefCountedTempDir


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _remove_abandoned(prefix: str) -> None:
    """Remove folders of processes that are gone: their locks went with them."""
    for file in Path(tempfile.gettempdir()).glob(f"{prefix}*/{_LOCK}"):
        try:
            lock = os.open(file, os.O_WRONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(file.parent, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)
