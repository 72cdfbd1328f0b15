"""Commands that the user may want next, spelt out, and the examples of each command's help."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import click
from click.core import ParameterSource

from mlflow_wandb_plugin.core.redaction import without_credentials


def examples(*lines: str) -> str:
    """Return the end of a command's help: lines that can be typed as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def same_with(command: click.Command, *more: str) -> str:
    """Return ``command`` with those arguments of the running command that it takes as well.

    Arguments that the user did not give are left out, and so are credentials in URIs.

    Args:
        more: options to add, as they are typed.
    """
    context = click.get_current_context()
    words = ["mlflow-wandb", str(command.name)]
    for parameter in command.params:
        name = str(parameter.name)
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            words += _typed(parameter, context.params.get(name))
    return shlex.join([*words, *(option for option in more if option not in words)])


def _typed(parameter: click.Parameter, value: Any) -> Iterator[str]:
    """Yield the words that give ``parameter`` this value."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        spellings = parameter.opts if value else parameter.secondary_opts
        yield from spellings[:1]
        return
    several = isinstance(value, Sequence) and not isinstance(value, str)
    for one in value if several else [value]:
        if isinstance(parameter, click.Option):
            yield parameter.opts[-1]
        yield without_credentials(str(one))
