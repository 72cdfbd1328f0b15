"""Folding the summary; how it compares with wandb-core's is test_decoder's business."""

from __future__ import annotations

import math

import pytest

from mlflow_wandb_plugin.wandb_log.summary import SummaryFold
from tests.support.core_says import comparable

ALL = frozenset({"min", "max", "mean", "first", "last"})


def test_the_last_value_is_shown() -> None:
    """Without a definition, for values of every type."""
    fold = SummaryFold()
    fold.numbers(("a",), [1.0, 3.0, 2.0])
    fold.other(("b", "c"), "text")
    assert fold.tree() == {"a": 2.0, "b": {"c": "text"}}


def test_statistics_of_one_fold_and_of_many_are_equal() -> None:
    """A live reader folds each row, a backfill a block."""
    values = [0.1 * n - 3 for n in range(50)]
    block, rows = SummaryFold(), SummaryFold()
    for fold in (block, rows):
        fold.configure(("a",), False, ALL)
    block.numbers(("a",), values)
    for value in values:
        rows.numbers(("a",), [value])
    assert block.tree() == rows.tree()
    assert block.tree()["a"]["first"] == -3


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("split", [0, 1, 2, 3])
def test_one_nan_makes_the_statistics_nan(at: int, split: int) -> None:
    """As Go's min and max do, for every position of the NaN and every split of the values."""
    values = [5.0, 1.0, 3.0]
    values[at] = math.nan
    fold = SummaryFold()
    fold.configure(("a",), False, frozenset({"min", "max", "mean"}))
    for part in (values[:split], values[split:]):
        if part:
            fold.numbers(("a",), part)
    assert comparable(fold.tree()["a"]) == dict.fromkeys(("min", "max", "mean"), "<nan>")


def test_infinities_are_no_nan() -> None:
    """Their sum may be one, their extremes are not."""
    fold = SummaryFold()
    fold.configure(("a",), False, frozenset({"min", "max", "mean"}))
    fold.numbers(("a",), [math.inf, -math.inf, 1.0])
    fold.numbers(("a",), [2.0])
    told = fold.tree()["a"]
    assert (told["min"], told["max"]) == (-math.inf, math.inf)
    assert math.isnan(told["mean"])


def test_a_hidden_key_is_not_shown() -> None:
    """`summary="none"`; a value that W&B showed before stays."""
    fold = SummaryFold()
    fold.numbers(("late",), [1.0])
    for key in ("late", "never"):
        fold.configure((key,), True, frozenset())
        fold.numbers((key,), [2.0])
    assert fold.tree() == {"late": 1.0}


def test_what_the_user_sets_shows_though_the_key_is_hidden() -> None:
    """wandb-core sends it to W&B all the same (asked against the loopback server)."""
    fold = SummaryFold()
    fold.configure(("b",), True, frozenset())
    fold.set(("b",), 0, 1)
    assert fold.tree() == {"b": 0}


def test_what_the_user_sets_stays_until_the_key_is_logged() -> None:
    """It replaces a statistic; deleting it leaves nothing."""
    fold = SummaryFold()
    fold.configure(("a",), False, frozenset({"max"}))
    fold.numbers(("a",), [1.0], 2)
    fold.set(("a",), "mine", 3)
    assert fold.tree() == {"a": "mine"}
    fold.numbers(("a",), [5.0], 4)
    assert fold.tree() == {"a": 5.0}
    fold.remove(("a",))
    assert fold.tree() == {}
    fold.remove(("never there",))


def test_deleting_a_key_deletes_what_is_below_it() -> None:
    """And nothing beside it."""
    fold = SummaryFold()
    fold.numbers(("a", "b"), [1.0])
    fold.numbers(("a", "c"), [1.0])
    fold.numbers(("ab",), [1.0])
    fold.remove(("a",))
    assert fold.tree() == {"ab": 1.0}


def test_a_number_and_a_tree_under_one_key() -> None:
    """The later one is shown, in any order of adding the columns."""
    later, earlier = SummaryFold(), SummaryFold()
    later.numbers(("a", "u"), [1.0], 4)
    later.numbers(("a",), [0.0], 2)
    earlier.numbers(("a", "u"), [1.0], 2)
    earlier.numbers(("a",), [0.0], 4)
    assert (later.tree(), earlier.tree()) == ({"a": {"u": 1.0}}, {"a": 0.0})


def test_a_tree_that_the_user_set_is_replaced_by_what_is_logged_below_it() -> None:
    """wandb-core keeps it as one value, and replaces it."""
    fold = SummaryFold()
    fold.set(("t",), {"u": 1}, 1)
    fold.numbers(("t", "v"), [3.0], 2)
    assert fold.tree() == {"t": {"v": 3.0}}


def test_wandbs_own_keys_are_left_out() -> None:
    """They are no results."""
    fold = SummaryFold()
    for key in ("_step", "_runtime", "_timestamp"):
        fold.numbers((key,), [1.0])
    fold.other(("_wandb", "runtime"), 3)
    assert fold.tree() == {}


def test_a_null_that_the_user_set_replaces_the_tree_below_it() -> None:
    """wandb-core then shows nothing, until something below it is logged again."""
    fold = SummaryFold()
    fold.numbers(("t", "v"), [3.0], 1)
    fold.set(("t",), None, 2)
    assert fold.tree() == {}
    fold.numbers(("t", "v"), [4.0], 3)
    assert fold.tree() == {"t": {"v": 4.0}}


def test_a_deleted_key_takes_the_tree_along_that_it_had_replaced() -> None:
    """Removing a number does not restore the value that it replaced."""
    fold = SummaryFold()
    fold.numbers(("t", "v"), [3.0], 1)
    fold.numbers(("t",), [4.0], 2)
    fold.remove(("t",))
    assert fold.tree() == {}


def test_what_was_carried_over_is_known_until_it_is_logged_or_set() -> None:
    """W&B hides ``hidden``: what it shows is still the carried value, after a row too."""
    fold = SummaryFold()
    for key, value in {"old": 1, "logged": 2, "set": 3, "hidden": 4, "m": {"max": 5}}.items():
        fold.carry((key,), value)
    fold.configure(("hidden",), True, frozenset())
    fold.numbers(("logged",), [2.0])
    fold.numbers(("set",), [9.0])
    fold.set(("set",), 3)
    fold.numbers(("hidden",), [8.0])
    assert fold.carried({("logged",), ("set",), ("hidden",)}) == {
        ("old",): 1, ("hidden",): 4, ("m", "max"): 5,
    }  # fmt: skip
    assert fold.tree() == {
        "old": 1, "logged": 2.0, "set": 3, "hidden": 4, "m": {"max": 5},
    }  # fmt: skip
