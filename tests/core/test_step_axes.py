"""Which x axis a key has, by what `define_metric` has said."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_wandb_plugin.core.model import StepDefinition
from mlflow_wandb_plugin.core.step_axes import (
    StepAxes,
    as_text,
    from_text,
    merged,
    of_entries,
)


def made(*definitions: tuple[int, str, str]) -> tuple[StepDefinition, ...]:
    return tuple(StepDefinition(*one) for one in definitions)


@pytest.mark.parametrize(
    ("key", "step", "metric"),
    [
        ("loss", 0, "all"), ("val/loss", 0, "some"), ("val/exact", 0, "one"), ("val/none", 0, ""),
        ("_runtime", 0, ""), ("valid", 0, "all"), ("later", 4, "all"), ("later", 5, "l"),
    ],
)  # fmt: skip
def test_the_key_itself_stands_before_globs_and_long_globs_before_short_ones(
    key: str, step: int, metric: str
) -> None:
    """In whichever order they were defined; keys with an underscore match none."""
    definitions = made(
        (0, "*", "all"), (0, "val/*", "some"), (0, "val/exact", "one"), (0, "val/none", ""),
        (5, "later", "l"),
    )  # fmt: skip
    assert StepAxes(definitions).metric(key, step) == metric
    assert StepAxes(reversed(definitions)).metric(key, step) == metric


def test_of_two_definitions_of_one_name_the_later_holds() -> None:
    """From its step on."""
    axes = StepAxes(made((0, "a", "x"), (3, "a", "y"), (3, "a", "z")))
    assert [axes.metric("a", step) for step in (0, 2, 3, 9)] == ["x", "x", "z", "z"]


def test_one_metric_of_all_keys_stands_before_what_is_defined() -> None:
    """Also for keys that begin with an underscore."""
    axes = StepAxes(made((0, "a", "x")), of_all="at")
    assert (axes.metric("a", 1), axes.metric("_b", 1)) == ("at", "at")
    assert axes.any


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        ([{"1": "epoch", "6": [3]}, {"2": "val/*", "5": 1, "6": [1, 3]}],
         [(0, "epoch", ""), (0, "val/*", "epoch")]),
        ([{"5": 2, "1": "loss", "6": [3]}, {"1": "epoch", "6": []}], [(0, "loss", "epoch")]),
        ([{"1": "loss", "4": "epoch"}], [(0, "loss", "epoch")]),
        ([{"1": "a\\.b", "5": 1, "6": [3]}], [(0, "a.b", "a.b")]),
        ([{"1": "x", "5": 9}, {"5": 1}, {"1": 3}, "text", None, {"2": [], "5": "1"}], []),
    ],
)  # fmt: skip
def test_the_definitions_of_an_internal_config(entries: list[Any], wanted: list[Any]) -> None:
    """wandb-core names the step metric by its place, from 1; a metric that is there only because
    another one names it is not defined; what is malformed is left out."""
    assert [tuple(one) for one in of_entries(entries)] == wanted


@pytest.mark.parametrize(
    ("known", "more", "added"),
    [
        ([], [(0, "a", "x")], [(0, "a", "x")]),
        ([(0, "a", "x")], [(0, "a", "x")], []),
        ([(0, "a", "x")], [(0, "a", "y")], []),
        ([(0, "a", "x")], [(7, "a", "y")], [(7, "a", "y")]),
        ([(0, "*", "x")], [(0, "a", "x"), (0, "b", "y")], [(0, "b", "y")]),
        ([(5, "*", "x")], [(0, "*", "x")], []),
    ],
)
def test_what_a_run_was_written_by_stays_in_force(
    known: list[Any], more: list[Any], added: list[Any]
) -> None:
    """A server that knows the last definitions only, as of the first row, changes none; later
    ones, and those of further keys, are added."""
    assert merged(made(*known), made(*more)) == made(*known, *added)


def test_what_is_added_counts_behind_the_rows_that_are_written() -> None:
    """Whether or not something was defined before."""
    more = made((0, "b", "y"), (9, "c", "z"))
    for known in (made((0, "a", "x")), ()):
        assert merged(known, more, 4) == (*known, *made((5, "b", "y"), (9, "c", "z")))


def test_the_text_of_a_tag_is_read_back_and_fits() -> None:
    """What does not fit is left out from the end; what is malformed is ignored."""
    definitions = made((0, "*", "global_step"), (3, "val/*", ""), (4, "ünï", "x"))
    assert from_text(as_text(definitions, 7, 500)) == (definitions, 7)
    assert from_text(as_text((), -1, 500)) == ((), -1)
    many = made(*((0, f"key {number}", "s") for number in range(1000)))
    text = as_text(many, 7, 500)
    kept, through = from_text(text)
    assert through == -1
    assert len(text) <= 500
    assert 10 < len(kept) < 30
    assert kept == many[: len(kept)]
    odd = '{"definitions": [["0", "a", "b"], [0, 1, "b"], 3], "through": "x"}'
    for damaged in ("", "{}", "3", "[[1]]", odd, "[" * 100_000):
        assert from_text(damaged) == ((), -1)
