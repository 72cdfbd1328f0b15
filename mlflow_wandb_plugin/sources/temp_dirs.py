"""Keep temporary files for as long as their paths are referenced.

A source yields files that it has downloaded; a target may read them later, in threads of its own.
Neither knows the other, so the path objects themselves keep the files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from mlflow_wandb_plugin.core.locks import try_lock

_LOCK = ".lock"


class RefCountedTempDir:
    """A temporary folder that is removed when neither it nor a path of `new_file` is referenced."""

    def __init__(self, prefix: str) -> None:
        _remove_abandoned(prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._number = 0
        lock = os.open(self.path / "lock", os.O_CREAT | os.O_WRONLY, 0o600)
        try_lock(lock)
        # Renamed when locked: other processes never find an unlocked lock file of a live folder.
        os.rename(self.path / "lock", self.path / _LOCK)
        weakref.finalize(self, _remove, self.path, lock)

    def new_folder(self) -> Path:
        """Create a folder in it; its path does not keep the files."""
        self._number += 1
        folder = self.path / f"{self._number:06d}"
        folder.mkdir()
        return folder

    def new_file(self, name: str) -> Path:
        """Return a path for a file, in a folder of its own so that equal names do not collide."""
        path = _KeepingPath(self.new_folder() / name)
        path.folder = self
        return path


class _KeepingPath(type(Path())):  # type: ignore[misc]
    """A path that keeps its folder; paths derived from it do not."""

    folder: RefCountedTempDir


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _remove_abandoned(prefix: str) -> None:
    """Remove folders of processes that have ended, whose locks ended with them."""
    for file in Path(tempfile.gettempdir()).glob(f"{prefix}*/{_LOCK}"):
        try:
            lock = os.open(file, os.O_WRONLY)
        except OSError:
            continue
        try:
            if try_lock(lock):
                shutil.rmtree(file.parent, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)
