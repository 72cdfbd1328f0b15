"""Arguments that a function would refuse later are refused at once."""

from __future__ import annotations

import pytest

from mlflow_wandb_plugin.core.arguments import (
    ArgumentValueError,
    UnknownArgumentError,
    check_arguments,
    check_choice,
)
from mlflow_wandb_plugin.errors import UsageError


def target(project: str, notes: str = "") -> None: ...


def test_unknown_arguments_are_refused_with_advice() -> None:
    """The nearest name, or what to do instead; known ones pass."""
    check_arguments("f", ("project", "mine"), target, also=("mine",))
    with pytest.raises(UnknownArgumentError, match="f takes no argument 'projct': did you mean pr"):
        check_arguments("f", ("projct",), target)
    with pytest.raises(TypeError, match="'key': set KEY"):
        check_arguments("f", ("key",), target, instead={"key": "set KEY"})


def test_a_value_must_be_one_of_those_known() -> None:
    """None among them is not named."""
    check_choice("f(mode=…)", None, (None, "a"))
    with pytest.raises(ArgumentValueError, match=r"f\(mode=…\) must be one of 'a', 'b': not 'c'"):
        check_choice("f(mode=…)", "c", (None, "a", "b"))
    assert issubclass(ArgumentValueError, (ValueError, UsageError))
