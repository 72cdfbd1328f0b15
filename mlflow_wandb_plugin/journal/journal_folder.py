"""Create folders of journals, and remove them."""

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
    private_folder(path, tighten=_is_ours(path))


def remove_empty(path: Path) -> None:
    """Remove a folder of journals at its default place, and wandb's folder, if they are empty.

    Raises:
        OSError: they are not, or cannot be removed.
    """
    if _is_ours(path):
        path.rmdir()
        path.parent.rmdir()


def _is_ours(path: Path) -> bool:
    """Whether a folder is at its default place, where this package made it."""
    names = (JOURNAL_DIR, outbox.FORMER_FOLDER)
    return path.name in names and path.parent.name in _WANDB_FOLDERS
