"""``w2m``: the command of export-wandb-to-mlflow, and the archives that it wrote."""

from __future__ import annotations

import sys

from mlflow_wandb_plugin.cli import INTERRUPTED


def main() -> None:
    """Run the console script. Ctrl-C ends it with one line, also during its imports."""
    try:
        from mlflow_wandb_plugin.w2m.command import main as run_command

        run_command()
    except KeyboardInterrupt:
        print("w2m: interrupted; run the same command to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
