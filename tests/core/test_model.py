"""Trees by path and back, and the small rules of the model."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_wandb_plugin.core.model import (
    RunInfo,
    UnreadableRange,
    as_float,
    flatten,
    nest,
    set_leaf,
)

trees = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers())),
    lambda inner: st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), trees))
def test_a_tree_comes_back_from_its_leaves(tree: dict[str, object]) -> None:
    """Labels may hold any text, dots included; an empty tree below the top is a leaf."""
    assert nest(flatten(tree)) == tree


@given(st.lists(st.tuples(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), st.integers())))
def test_setting_leaves_keeps_a_tree(updates: list[tuple[list[str], int]]) -> None:
    """No leaf ever stands above another, and the last one set is there."""
    leaves: dict[tuple[str, ...], int] = {}
    for labels, value in updates:
        path = tuple(labels)
        set_leaf(leaves, path, value)
        assert leaves[path] == value
        assert not any(
            one != other and other[: len(one)] == one for one in leaves for other in leaves
        )
    assert flatten(nest(leaves)) == leaves


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 1.0), (True, 1.0), (10**400, math.inf), (-(10**400), -math.inf)]
)
def test_numbers_beyond_a_double_are_infinite(value: int, expected: float) -> None:
    """Python's integers have no limit."""
    assert as_float(value) == expected


def test_a_path_leaves_out_what_is_unknown() -> None:
    """An offline run knows no entity."""
    assert RunInfo("r", "p", entity="e").path == "e/p/r"
    assert RunInfo("r", "p").path == "p/r"


def test_damage_reads_as_a_sentence() -> None:
    """Where, how much, why."""
    text = str(UnreadableRange("x.wandb", 100, 7, "checksum mismatch"))
    assert text == "x.wandb: 7 bytes at byte 100 unreadable (checksum mismatch)"
