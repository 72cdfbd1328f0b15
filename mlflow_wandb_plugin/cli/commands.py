"""All commands of ``mlflow-wandb``, and how each of them ends."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import click

from mlflow_wandb_plugin import __version__
from mlflow_wandb_plugin.cli import INTERRUPTED
from mlflow_wandb_plugin.cli.next_commands import examples
from mlflow_wandb_plugin.cli.terminal import Terminal, common_options, echo
from mlflow_wandb_plugin.core.partial_import import allow_partial_import
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.store.uris import MIRROR, OFF

COMMANDS = (
    "backfill", "doctor", "export", "plugins", "run", "status", "summary", "sync", "ui", "verify",
)  # fmt: skip
RUN = "run"
"""The command that becomes another one: the options after it are those of that command."""
USAGE = 2
MOST_OF_ERROR = 300
"""Characters of an unforeseen error."""


class _Commands(click.Group):
    """Imports a command when it is needed: all of them would take a third of a second."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS and name not in self.commands:
            module = importlib.import_module(f"mlflow_wandb_plugin.cli.{name}")
            command: click.Command = getattr(module, name)
            if name != RUN:
                command.params += common_options()
            self.add_command(command)
        return super().get_command(context, name)


@click.group(
    cls=_Commands,
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


def run_command() -> None:
    """Run the command that the arguments name: an error of this package, and a wrong option, is one
    line and exit code 2; Ctrl-C is exit code 130, and an error that nobody foresaw is one line and
    exit code 1. With --debug each comes with its traceback."""
    if sys.argv[1:2] != [RUN]:
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
        echo(f"mlflow-wandb: {text}", err=True)
        sys.exit(USAGE)
    except click.Abort:
        echo("mlflow-wandb: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output, such as head, has enough. Python must not flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        _show_traceback(options)
        echo(f"mlflow-wandb: {_unforeseen(error, options.debug)}", err=True)
        sys.exit(1)


def _show_traceback(options: Terminal) -> None:
    if options.debug:
        echo(traceback.format_exc(), err=True)


def _unforeseen(error: Exception, debug: bool) -> str:
    """Describe an error that nobody foresaw in one line."""
    said = " ".join(without_credentials(str(error)).split())[:MOST_OF_ERROR]
    what = f"unexpected {type(error).__name__}: {said}".rstrip(": ")
    how = "report it with the lines above" if debug else "the same command with --debug says where"
    return f"{what}; {how}"
