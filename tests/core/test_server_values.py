"""Which values W&B's server keeps of which, as it was seen to keep them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlflow_wandb_plugin.core.server_values import is_kept_as


@pytest.mark.parametrize(
    ("logged", "kept", "same"),
    [
        (2**70, 1.1805916207174113e21, True),
        (2**53 + 1, 2.0**53, True),
        (2**53 - 1, 2.0**53 - 1, False),
        (1, 1, True),
        (1, True, False),
        ({"a": {}, "b": 1}, {"b": 1}, True),
        ({"a": {"b": {"c": None}}, "d": 1}, {"d": 1}, True),
        ({"b": 1}, {"b": 1, "a": {}}, False),
        ({"a": 0}, {}, False),
        (math.nan, None, True),
        (math.nan, 0.0, False),
        (math.inf, math.inf, True),
        ([1, {}], [1, {}], True),
        ([1, 2], [1], False),
        ("a", "b", False),
    ],
)
def test_what_is_kept_of_a_value(logged: Any, kept: Any, same: bool) -> None:
    """Empty objects and NaN go, integers that no float holds are rounded; nothing is added."""
    assert is_kept_as(logged, kept) is same
