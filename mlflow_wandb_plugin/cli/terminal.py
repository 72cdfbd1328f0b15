"""What a command says while it works: how much, in which colours, and with which errors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from mlflow_wandb_plugin.core.messages import cell, printable

if TYPE_CHECKING:
    from rich.console import Console

LOGGER = "mlflow_wandb_plugin"
PIPE_WIDTH = 200
"""Columns of what is written into a file or pipe, where links should stay in one line."""


@dataclass
class Terminal:
    """The common options of all commands.

    Attributes:
        verbose: say on standard error what is done, line by line, without a bar.
        quiet: print nothing but the last line and errors.
        no_color: as the variable NO_COLOR.
        debug: an error comes with its traceback.
    """

    verbose: bool = False
    quiet: bool = False
    no_color: bool = False
    debug: bool = False


def current() -> Terminal:
    """Return the options of the command that runs; the defaults outside of one."""
    context = click.get_current_context(silent=True)
    found = None if context is None else context.find_object(Terminal)
    return found or Terminal()


def console(stderr: bool = False) -> Console:
    """Return a console for standard output, or for standard error."""
    from rich.console import Console

    # None leaves the decision to rich, which knows NO_COLOR, COLUMNS and pipes.
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else PIPE_WIDTH
    width = None if "COLUMNS" in os.environ else width
    return Console(stderr=stderr, no_color=current().no_color or None, width=width)


def shows_progress() -> bool:
    """Whether bars are drawn: standard error is a terminal, and shows nothing else."""
    options = current()
    return sys.stderr.isatty() and not options.quiet and not options.verbose


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show what is happening for as long as it takes."""
    if current().verbose:
        echo(f"{what} …", err=True)
    if not shows_progress():
        yield
        return
    with console(stderr=True).status(cell(f"{what} …")):
        yield


def echo(text: str, err: bool = False) -> None:
    """Print a text, which may have names that others gave."""
    click.echo(printable(text), err=err)


def say(text: str) -> None:
    """Print a line that ``--quiet`` leaves out."""
    if not current().quiet:
        echo(text)


def _sets(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def note(context: click.Context, _: click.Parameter, given: bool) -> None:
        options = context.ensure_object(Terminal)
        logging_on = options.verbose or options.debug
        if not given:
            return
        setattr(options, name, True)
        if name in ("verbose", "debug"):
            if not logging_on:
                _log_to_stderr(context)
            level = logging.DEBUG if options.debug else logging.INFO
            logging.getLogger(LOGGER).setLevel(level)

    return note


def _log_to_stderr(context: click.Context) -> None:
    """Show what the package logs until the command ends."""
    logger = logging.getLogger(LOGGER)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    before = logger.level

    def undo() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    context.call_on_close(undo)


def common_options() -> list[click.Parameter]:
    """Return the options that every command has, and the group itself."""
    texts = {
        "verbose": (("-v", "--verbose"), "Say on standard error what is done, step by step."),
        "quiet": (("-q", "--quiet"), "Print nothing but the last line, JSON and errors."),
        "no_color": (("--no-color",), "No colours; so does the variable NO_COLOR."),
        "debug": (("--debug",), "Show the traceback of an error, and all that is logged."),
    }
    return [
        click.Option(
            spellings,
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_sets(name),
            help=text,
        )
        for name, (spellings, text) in texts.items()
    ]
