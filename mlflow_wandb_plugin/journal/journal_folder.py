"""Create folders of journals."""

from __future__ import annotations

from pathlib import Path

from mlflow_wandb_plugin.core.private_files import private_folder
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.frames import JOURNAL_DIR

_WANDB_FOLDERS = ("wandb", ".wandb")


def open_folder(path: Path) -> None:
    """Create the folder of journals ``path`` with mode 0700, if it does not exist.

    One at its default place was made by this package, and gets this mode if it has another one. The
    mode of a folder that the user has set is left as it is.

    Raises:
        OSError: it cannot be created.
    """
    default = (
        path.name in (JOURNAL_DIR, outbox.FORMER_FOLDER) and path.parent.name in _WANDB_FOLDERS
    )
    private_folder(path, tighten=default)
