"""All commands of ``mlflow-wandb``, and how each of them ends."""

from __future__ import annotations

import os
import sys
import traceback

import click

from mlflow_wandb_plugin import __version__
from mlflow_wandb_plugin.cli import INTERRUPTED
from mlflow_wandb_plugin.cli.backfill import backfill
from mlflow_wandb_plugin.cli.doctor import doctor
from mlflow_wandb_plugin.cli.export import export
from mlflow_wandb_plugin.cli.next_commands import examples
from mlflow_wandb_plugin.cli.plugins import plugins
from mlflow_wandb_plugin.cli.run import run
from mlflow_wandb_plugin.cli.status import status
from mlflow_wandb_plugin.cli.summary import summary
from mlflow_wandb_plugin.cli.sync import sync
from mlflow_wandb_plugin.cli.terminal import Terminal, common_options
from mlflow_wandb_plugin.cli.ui import ui
from mlflow_wandb_plugin.cli.verify import verify
from mlflow_wandb_plugin.core.partial_import import allow_partial_import
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.store.uris import MIRROR, OFF

USAGE = 2
MOST_OF_ERROR = 300
"""Characters of an unforeseen error."""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    epilog=examples(
        "mlflow-wandb run -- python train.py",
        "mlflow-wandb summary ./wandb",
        "mlflow-wandb backfill ./wandb --to sqlite:///mlflow.db",
        "mlflow-wandb verify ./wandb --to sqlite:///mlflow.db",
        "mlflow-wandb ui --to sqlite:///mlflow.db",
        "mlflow-wandb doctor",
    ),
)
@click.version_option(__version__, prog_name="mlflow-wandb")
@click.pass_context
def cli(context: click.Context) -> None:
    """Log training runs to W&B and MLflow, and migrate history between them."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(USAGE)


cli.params += common_options()
for command in (backfill, doctor, export, plugins, run, status, summary, sync, ui, verify):
    if command is not run:
        # Options after `run` are those of the command that it runs.
        command.params += common_options()
    cli.add_command(command)


def run_command() -> None:
    """Run the command that the arguments name: an error of this package, and a wrong option, is one
    line and exit code 2; Ctrl-C is exit code 130, and an error that nobody foresaw is one line and
    exit code 1. With --debug each comes with its traceback."""
    if sys.argv[1:2] != [run.name]:
        # Only what users run is mirrored. A mirrored store cannot be read by SQL or be counted.
        os.environ[MIRROR] = OFF
        # A tracking server, and W&B's logs, need a part of these packages, and a third of the time.
        allow_partial_import()
    options = Terminal()
    try:
        sys.exit(cli(standalone_mode=False, obj=options))
    except (MlflowWandbError, click.ClickException) as error:
        _show_traceback(options)
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"mlflow-wandb: {text}", err=True)
        sys.exit(USAGE)
    except click.Abort:
        click.echo("mlflow-wandb: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output, such as head, has enough. Python must not flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        _show_traceback(options)
        click.echo(f"mlflow-wandb: {_unforeseen(error, options.debug)}", err=True)
        sys.exit(1)


def _show_traceback(options: Terminal) -> None:
    if options.debug:
        click.echo(traceback.format_exc(), err=True)


def _unforeseen(error: Exception, debug: bool) -> str:
    """Describe an error that nobody foresaw in one line."""
    said = " ".join(without_credentials(str(error)).split())[:MOST_OF_ERROR]
    what = f"unexpected {type(error).__name__}: {said}".rstrip(": ")
    how = "report it with the lines above" if debug else "the same command with --debug says where"
    return f"{what}; {how}"
