"""``mlflow-wandb``: parse arguments, call one function, print, exit. One file per command."""

from __future__ import annotations

import atexit
import gc
import sys

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
CYCLES_AFTER = 50_000
"""New objects after which Python looks for cycles of garbage; its default is 700, 2,000 since 3.13.
That search took a fifth of the time of importing MLflow."""


def main() -> None:
    """Run the console script. Ctrl-C during its imports ends it as at any other time."""
    gc.set_threshold(CYCLES_AFTER)
    # The process ends: half a second would go into the search for what it no longer needs.
    atexit.register(gc.freeze)
    try:
        from mlflow_wandb_plugin.cli.commands import run_command
    except KeyboardInterrupt:
        print("mlflow-wandb: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    run_command()
