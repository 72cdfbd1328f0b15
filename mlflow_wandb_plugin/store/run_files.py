"""Keep the content of a mirrored run's files beside its journal until W&B has it."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path
from typing import BinaryIO

from mlflow_wandb_plugin.core.atomic_files import link_or_copy


class RunFiles:
    """The files of one run.

    Raises from every method:
        OSError: a file is gone, the disk is full, or the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open_new(self) -> BinaryIO:
        return open(self._new_path(), "wb")

    def keep(self, source: Path, stored: bool) -> str:
        """Keep the present content of a file; returns the name of the kept file.

        Files in the temporary folder, and an artifact store's own copies (``stored``), are not
        changed later and are linked. Others are copied.
        """
        kept = self._new_path()
        linkable = stored or source.resolve().is_relative_to(tempfile.gettempdir())
        try:
            (link_or_copy if linkable else shutil.copyfile)(source, kept)
        except OSError:
            kept.unlink(missing_ok=True)
            raise
        return kept.name

    def _new_path(self) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder / uuid.uuid4().hex
