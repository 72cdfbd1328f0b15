"""What the package says to the person at the terminal, in wandb's own voice and place."""

from __future__ import annotations

import sys

_said: set[str] = set()


def say(message: str) -> None:
    """One line, as wandb prints its own; nothing when wandb is silent."""
    import wandb

    wandb.termlog(message)


def warn_once(message: str) -> None:
    """A warning, the first time only. Never raises."""
    if message in _said:
        return
    _said.add(message)
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
