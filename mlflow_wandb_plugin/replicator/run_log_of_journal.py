"""Find the log that wandb-core wrote of a journal's run, without trusting the journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal.frames import JOURNAL_DIR
from mlflow_wandb_plugin.settings import PREFIX
from mlflow_wandb_plugin.wandb_log.run_folders import segment_of


def wandb_file_of(path: Path, header: Mapping[str, Any], journal_dir: str) -> Path:
    """The ``.wandb`` file of the run of journal ``path``, which may not exist.

    It is in a run folder beside the folder of journals, whatever path the header has. Only journals
    of the folder that the user has set for them may name another place. What is found there is
    read, and may be moved or removed when the run is complete.

    Args:
        journal_dir: the setting of this name.

    Raises:
        JournalError: the header names the log of another run, or one in another place, or the log
            is a symbolic link.
    """
    named = Path(str(header["wandb_file"]))
    chosen = bool(journal_dir) and path.parent == Path(journal_dir).absolute()
    base = named.parent.parent if chosen else path.parent.parent
    found = base / named.parent.name / named.name
    if segment_of(found) != path.stem or ".." in (named.parent.name, named.name):
        raise JournalError(f"{path} names the log of another run, {named}: remove the journal")
    if found.is_symlink() or found.parent.is_symlink():
        raise JournalError(f"{found} is a symbolic link: put the run's own folder in its place")
    if not found.exists() and named.exists() and named.resolve() != found.resolve():
        raise JournalError(
            f"{path} names a log in another folder, {named}: move the journal into "
            f"{named.parent.parent / JOURNAL_DIR}, or set {PREFIX}JOURNAL_DIR={path.parent}"
        )
    return found
