"""``mlflow-wandb status``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.journal.status_file import read_status
from mlflow_wandb_plugin.replicator import sync as syncing
from mlflow_wandb_plugin.replicator.wandb_shipment import is_mirrored


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def status(folders: tuple[Path, ...], as_json: bool) -> None:
    """Show runs and the state of their replicas: in MLflow, or in W&B for runs created in MLflow.

    FOLDERS default to where wandb writes: WANDB_DIR, else the current folder.
    """
    rows = [
        _row(path)
        for folder in folders or (syncing.default_folder(),)
        for path in syncing.find_journals(folder, delivered=True)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Replicas")
    columns = ["log", "trainer", "home", "replica", "MLflow run"]
    columns += ["not yet shipped", "not carried", "trouble"]
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    Console().print(table)


def _row(path: Path) -> dict[str, object]:
    recorded = read_status(path)
    mirrored = recorded.get("born") == outbox.BORN or (path.exists() and is_mirrored(path))
    pending = path.exists()
    alive = pending and trainer_alive(path)
    state = recorded.get("state", "waiting")
    if not pending and state == "live":
        # It was delivered; the process ended before it wrote the status.
        state = "complete"
    losses = recorded.get("losses") or {}
    return {
        "log": path.stem,
        "trainer": "alive" if alive else "ended",
        "home": "W&B" if mirrored else "MLflow",
        "replica": "waiting" if pending and not alive and state == "live" else state,
        "MLflow run": path.stem if mirrored else recorded.get("run_id", ""),
        "not yet shipped": f"{path.stat().st_size:,} bytes" if pending else "",
        "not carried": ", ".join(f"{what}: {count}" for what, count in losses.items()),
        "trouble": recorded.get("error", ""),
    }
