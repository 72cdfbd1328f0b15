"""Temporary files that last as long as somebody holds their path.

A source yields files that it downloaded; a target may read them until it is done with the run,
in threads of its own. Neither knows the other, so the paths themselves keep the files.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class LentFolder:
    """A temporary folder, removed when neither it nor a path that it lent is held any more."""

    def __init__(self, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._number = 0
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

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

    folder: LentFolder
