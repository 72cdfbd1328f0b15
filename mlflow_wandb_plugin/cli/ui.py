"""``mlflow-wandb ui``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from mlflow_wandb_plugin.cli.next_commands import examples
from mlflow_wandb_plugin.cli.terminal import echo, working
from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.core.training_settings import load_settings
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.mlflow_access.address import default_uri
from mlflow_wandb_plugin.store import uris


@click.command(
    epilog=examples(
        "mlflow-wandb ui --to sqlite:///mlflow.db --port 5001",
        "mlflow-wandb ui --to http://127.0.0.1:5000",
    )
)
@click.option(
    "--to", default="", metavar="URI", help="MLflow tracking URI. Default: MLflow's own setting."
)
@click.option(
    "--port", default=5000, show_default=True, help="Port of the UI, if the store has no server."
)
def ui(to: str, port: int) -> None:
    """Show runs in MLflow's UI: start it on a database or folder, or print the page of a server.

    It listens on 127.0.0.1 alone, until Ctrl-C.
    """
    wanted = to or tracking_uri.uri(load_settings())
    if not wanted:
        with working("importing MLflow to ask for its own store"):
            wanted = default_uri()
    uri = tracking_uri.absolute_uri(uris.without_prefix(wanted))
    if page := tracking_uri.experiments_link(uri):
        echo(page)
        return
    file = uri.partition(":///")[2]
    if uri.startswith("sqlite") and not Path(file).is_file():
        raise UsageError(f"there is no database {file}: name MLflow's store with --to")
    echo(
        f"MLflow's UI of {tracking_uri.shown(uri)} starts; once it answers, its experiments are at "
        f"{tracking_uri.experiments_link(f'http://127.0.0.1:{port}')} (Ctrl-C ends it)"
    )
    sys.stdout.flush()
    # Not an argument: others on this machine can read those, and a URI may have a password.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(command[0], command)
