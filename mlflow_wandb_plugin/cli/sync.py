"""``mlflow-wandb sync``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from mlflow_wandb_plugin.cli.next_commands import examples
from mlflow_wandb_plugin.cli.progress import counted_progress
from mlflow_wandb_plugin.cli.terminal import echo
from mlflow_wandb_plugin.replicator import sync as syncing


@click.command(
    epilog=examples("mlflow-wandb sync", "mlflow-wandb sync ./wandb --to http://127.0.0.1:5000")
)
@click.argument("folders", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--to",
    default="",
    metavar="URI",
    help="MLflow tracking URI of runs that go to MLflow. Default: your own; runs that were logged "
    "for another one are left.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def sync(folders: tuple[Path, ...], to: str, as_json: bool) -> None:
    """Deliver what interrupted runs left in their journals: to MLflow, or to W&B if the run was
    created in MLflow.

    FOLDERS default to where wandb writes: WANDB_DIR, else the current folder. Runs whose
    trainer is dead get their final status.

    Exit code: 0 all delivered, 1 something could not be delivered, 2 it could not start.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    journals = [
        path
        for folder in folders or (syncing.default_folder(),)
        for path in syncing.find_journals(folder)
    ]
    deliveries: list[syncing.Delivery] = []
    with counted_progress("journals", len(journals)) as starting:
        for delivery in syncing.deliver(journals, to, lambda path: starting(path.stem)):
            if not as_json:
                _show(delivery, deliveries[-1] if deliveries else None)
            deliveries.append(delivery)
    if as_json:
        rows = [asdict(delivery) | {"journal": str(delivery.journal)} for delivery in deliveries]
        echo(json.dumps(rows, indent=1))
    elif not journals:
        echo("nothing to deliver")
    undelivered = ("waiting", "failed", "busy")
    sys.exit(1 if any(delivery.state in undelivered for delivery in deliveries) else 0)


def _show(delivery: syncing.Delivery, before: syncing.Delivery | None) -> None:
    """Print one line, below one for its target; an error that was just printed is not repeated."""
    place = (delivery.home, delivery.target)
    if before is None or place != (before.home, before.target):
        at = f" at {delivery.target}" if delivery.target else ""
        echo(f"To {delivery.home}{at}:")
        before = None
    repeated = before is not None and before.error == delivery.error
    what = f" ({delivery.error})" if delivery.error and not repeated else ""
    echo(f"  {delivery.journal.stem}: {delivery.state}{what}")
