"""Messages of the training process, printed as wandb prints its own."""

from __future__ import annotations

import os
import sys
from typing import Any

from mlflow_wandb_plugin.core.messages import show_once

_silent: bool | None = None
"""The setting ``silent`` of the latest run; None before the first."""


def heed(run_settings: Any) -> bool:
    """Note a run's setting ``silent``; returns whether its progress is not to be shown."""
    global _silent
    _silent = bool(run_settings.silent)
    return _silent or bool(run_settings.quiet)


def print_line(message: str) -> None:
    """Print one line as wandb prints its own; nothing when wandb is silent."""
    import wandb

    wandb.termlog(message)


def warn_once(message: str) -> None:
    """Print a warning, the first time in this process only, also when wandb is silent.

    Never raises.
    """
    show_once(message, _warn)


def _warn(message: str) -> None:
    try:
        import wandb

        wandb.termwarn(f"mlflow-wandb: {message}")
        # wandb then writes warnings to its log only: nobody would learn of what is lost.
        shown = not _is_silent()
    except Exception:
        shown = False
    if not shown:
        print(f"mlflow-wandb: {message}", file=sys.stderr)


def _is_silent() -> bool:
    if _silent is not None:
        return _silent
    return os.environ.get("WANDB_SILENT", "").lower() in ("1", "true", "t", "yes", "y", "on")


class ProgressLine:
    """A line that is redrawn in place on a terminal and printed once elsewhere.

    Args:
        quiet: whether it is not shown at all.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._tty = sys.stderr.isatty()
        self._shown = False

    def show(self, text: str) -> None:
        if self._quiet:
            return
        if self._tty:
            print(f"\r\x1b[Kmlflow: {text}", end="", file=sys.stderr, flush=True)
        elif not self._shown:
            print(f"mlflow: {text}", file=sys.stderr, flush=True)
        self._shown = True

    def end(self) -> None:
        if self._tty and self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
