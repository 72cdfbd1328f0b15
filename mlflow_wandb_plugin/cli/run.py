"""``mlflow-wandb run``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

import mlflow_wandb_plugin
from mlflow_wandb_plugin.cli.next_commands import examples
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.settings import PREFIX


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "mlflow-wandb run -- python train.py",
        "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 mlflow-wandb run -- torchrun train.py --lr 0.1",
    ),
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...]) -> None:
    """Run COMMAND with every W&B run in it, and in its children, replicated to MLflow.

    No change to the script: mlflow-wandb run -- python train.py
    """
    os.environ[PREFIX + "AUTOLOG"] = "1"
    hook = Path(mlflow_wandb_plugin.__file__).parent / "live" / "sitecustomize"
    path = [str(hook), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
    sys.stdout.flush()
    try:
        # Becoming the command keeps its exit code, its signals and its terminal.
        os.execvp(command[0], list(command))
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror}") from error
