"""Messages of the training process, printed as wandb prints its own."""

from __future__ import annotations

import sys

from mlflow_wandb_plugin.core.messages import show_once


def print_line(message: str) -> None:
    """Print one line as wandb prints its own; nothing when wandb is silent."""
    import wandb

    wandb.termlog(message)


def warn_once(message: str) -> None:
    """Print a warning, the first time in this process only. Never raises."""
    show_once(message, _warn)


def _warn(message: str) -> None:
    try:
        import wandb

        wandb.termwarn(f"mlflow-wandb: {message}")
    except Exception:
        print(f"mlflow-wandb: {message}", file=sys.stderr)


class ProgressLine:
    """A line that is redrawn in place on a terminal and printed once elsewhere."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._shown = False

    def show(self, text: str) -> None:
        if self._tty:
            print(f"\r\x1b[Kmlflow: {text}", end="", file=sys.stderr, flush=True)
        elif not self._shown:
            print(f"mlflow: {text}", file=sys.stderr, flush=True)
        self._shown = True

    def end(self) -> None:
        if self._tty and self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
