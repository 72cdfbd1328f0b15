"""``mlflow-wandb``: parse arguments, call one function, print, exit. One file per command."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main() -> None:
    """Run the console script. Ctrl-C during its imports ends it as at any other time."""
    try:
        from mlflow_wandb_plugin.cli.commands import run_command
    except KeyboardInterrupt:
        print("mlflow-wandb: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    run_command()
