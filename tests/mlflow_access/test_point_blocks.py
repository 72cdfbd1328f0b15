"""Points of a metric in columns."""

from __future__ import annotations

import math

import pytest

from mlflow_wandb_plugin.mlflow_access.point_blocks import Points, joined

MOST = 1.7976931348623157e308


@pytest.mark.parametrize(
    ("points", "row"),
    [
        # value, Unix ms, step
        ([(0.5, 7, 1)], ("m", 0.5, 7, 1, False, "r")),
        ([(0.5, 9, 1), (0.25, 7, 2), (0.75, 8, 1)], ("m", 0.25, 7, 2, False, "r")),
        ([(0.5, 7, 2), (0.25, 9, 2), (0.75, 8, 2)], ("m", 0.25, 9, 2, False, "r")),
        ([(0.5, 7, 2), (0.75, 7, 2), (0.25, 7, 2)], ("m", 0.75, 7, 2, False, "r")),
        ([(0.5, 7, 2), (0.75, 9, 2)], ("m", 0.75, 9, 2, False, "r")),
        ([(-0.5, 7, 1), (math.nan, 7, 1), (-0.25, 7, 1)], ("m", 0.0, 7, 1, True, "r")),
        ([(0.0, 7, 1), (math.nan, 7, 1)], ("m", 0.0, 7, 1, False, "r")),
        ([(math.nan, 7, 1), (0.0, 7, 1)], ("m", 0.0, 7, 1, True, "r")),
        ([(1.0, 7, 1), (math.inf, 7, 1)], ("m", MOST, 7, 1, False, "r")),
        ([(-math.inf, 7, 1)], ("m", -MOST, 7, 1, False, "r")),
    ],
)
def test_the_latest_point(points: list[tuple[float, int, int]], row: tuple[object, ...]) -> None:
    """The greatest step, time and stored value count, in this order; of equal ones the first."""
    assert Points("m", *zip(*points, strict=True)).latest("r") == row


def test_points_of_one_metric_are_joined() -> None:
    """Each of the three columns goes on, in the order of the blocks."""
    blocks = [
        Points("a", [0.5], [10], [1]), Points("b", [7.0], [11], [2]),
        Points("a", [0.25, 0.125], [20, 30], [3, 4]),
    ]  # fmt: skip
    assert joined(blocks) == [
        Points("a", [0.5, 0.25, 0.125], [10, 20, 30], [1, 3, 4]), Points("b", [7.0], [11], [2]),
    ]  # fmt: skip
    assert joined(blocks[:2]) == blocks[:2]


def test_the_columns_as_they_are_stored() -> None:
    """NaN is zero with a mark, an infinity the largest float."""
    points = Points("m", [math.nan, math.inf, -math.inf, 0.5], [1, 2, 3, 4], [5, 6, 7, 8])
    assert points.columns() == (
        ["m"] * 4, [0.0, MOST, -MOST, 0.5], [1, 2, 3, 4], [5, 6, 7, 8], [True, False, False, False],
    )  # fmt: skip
    assert Points("m", [0.5], [1], [2]).columns() == (["m"], [0.5], [1], [2], [False])
    assert Points("m", [MOST, MOST], [1, 1], [1, 2]).finite()


def test_points_out_of_mlflows_range_are_split_off() -> None:
    """Times begin with 0; times and steps have 64 bits."""
    high = 2**63
    points = Points("m", [1.0, 2.0, 3.0, 4.0, 5.0], [0, -1, high, 1, 2], [-high, 1, 1, high, 3])
    assert points.split() == (
        Points("m", [1.0, 5.0], [0, 2], [-high, 3]),
        Points("m", [2.0, 3.0, 4.0], [-1, high, 1], [1, 1, high]),
    )
