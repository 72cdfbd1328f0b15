"""Refuse arguments that a function would refuse later, where that is of no use any more."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mlflow_wandb_plugin.errors import UsageError


class UnknownArgumentError(UsageError, TypeError):
    """A function or class does not take an argument."""


class ArgumentValueError(UsageError, ValueError):
    """An argument cannot have the value that it is given."""


def check_choice(name: str, given: Any, known: Sequence[Any]) -> None:
    """Check that an argument has one of the values that are known.

    Raises:
        ArgumentValueError: it has another one.
    """
    if given not in known:
        values = ", ".join(repr(one) for one in known if one is not None)
        raise ArgumentValueError(f"{name} must be one of {values}: not {given!r}")


def check_arguments(
    name: str,
    given: Collection[str],
    function: Callable[..., Any],
    also: Collection[str] = (),
    instead: Mapping[str, str] | None = None,
) -> None:
    """Refuse what ``function`` does not take.

    Args:
        name: of what was given the arguments.
        also: arguments that it takes itself.
        instead: what to do instead of some arguments.

    Raises:
        UnknownArgumentError: an argument is unknown to ``name``.
    """
    known = {*inspect.signature(function).parameters, *also}
    for argument in given:
        if argument not in known:
            near = difflib.get_close_matches(argument, sorted(known), 1)
            did_you = f"did you mean {near[0]}?" if near else "leave it out"
            advice = (instead or {}).get(argument, did_you)
            raise UnknownArgumentError(f"{name} takes no argument {argument!r}: {advice}")
