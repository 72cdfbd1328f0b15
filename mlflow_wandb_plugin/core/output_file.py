"""Check a file that the user wants written, before work begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlflow_wandb_plugin.errors import UsageError


def check_output_file(option: str, path: Path, suffixes: Sequence[str]) -> None:
    """Check that ``path`` can be written; create its folder.

    Args:
        option: the option that names the file, for messages.
        suffixes: those that are known.

    Raises:
        UsageError: its suffix is unknown, or it cannot be written.
    """
    if path.suffix not in suffixes:
        raise UsageError(f"{option} {path}: the name must end in {', '.join(suffixes)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        path.open("a").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be written: {error}") from error
