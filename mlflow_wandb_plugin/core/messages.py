"""Warnings that a process shows once, however often their cause recurs."""

from __future__ import annotations

import logging
from collections.abc import Callable

_logger = logging.getLogger("mlflow_wandb_plugin")
_shown: set[str] = set()


def show_once(message: str, show: Callable[[str], None]) -> None:
    """Pass ``message`` to ``show``, the first time in this process only."""
    if message not in _shown:
        _shown.add(message)
        show(message)


def log_once(message: str) -> None:
    """Log a warning, the first time in this process only.

    Printing it as `live.terminal` does would import wandb: half a second of a script's time.
    """
    show_once(f"mlflow-wandb: {message}", _logger.warning)
