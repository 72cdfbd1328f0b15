"""All commands of ``mlflow-wandb``, and how each of them ends."""

from __future__ import annotations

import os
import sys

import click

from mlflow_wandb_plugin import __version__
from mlflow_wandb_plugin.cli import INTERRUPTED
from mlflow_wandb_plugin.cli.backfill import backfill
from mlflow_wandb_plugin.cli.doctor import doctor
from mlflow_wandb_plugin.cli.export import export
from mlflow_wandb_plugin.cli.plugins import plugins
from mlflow_wandb_plugin.cli.run import run
from mlflow_wandb_plugin.cli.status import status
from mlflow_wandb_plugin.cli.sync import sync
from mlflow_wandb_plugin.cli.ui import ui
from mlflow_wandb_plugin.cli.verify import verify
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.store.uris import MIRROR, OFF

USAGE = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="mlflow-wandb")
@click.pass_context
def cli(context: click.Context) -> None:
    """Log training runs to W&B and MLflow, and migrate history between them."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(USAGE)


for command in (backfill, doctor, export, plugins, run, status, sync, ui, verify):
    cli.add_command(command)


def run_command() -> None:
    """Run the command that the arguments name: an error of this package, and a wrong option, is one
    line and exit code 2; Ctrl-C is exit code 130."""
    if sys.argv[1:2] != [run.name]:
        # Only what users run is mirrored. A mirrored store cannot be read by SQL or be counted.
        os.environ[MIRROR] = OFF
    try:
        sys.exit(cli(standalone_mode=False))
    except (MlflowWandbError, click.ClickException) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"mlflow-wandb: {text}", err=True)
        sys.exit(USAGE)
    except click.Abort:
        click.echo("mlflow-wandb: interrupted", err=True)
        sys.exit(INTERRUPTED)
