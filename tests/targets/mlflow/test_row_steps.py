"""A point's step is the value of its key's step metric in the same row."""

from __future__ import annotations

import math

import pytest

from mlflow_wandb_plugin.core.model import Series, StepDefinition
from mlflow_wandb_plugin.core.step_axes import StepAxes
from mlflow_wandb_plugin.targets.mlflow import row_steps
from mlflow_wandb_plugin.targets.mlflow.row_steps import RowSteps


def series(
    key: str, steps: list[int], values: list[float], times: list[int] | None = None
) -> Series:
    return Series((key,), steps, times or [1000 * step for step in steps], values)


def written(steps: RowSteps, *block: Series) -> dict[str, list[int]]:
    """The steps of a block's points by key."""
    ready = [done for one in block for done in steps.add(one)] + steps.release()
    return {done.key[0]: list(done.steps) for done in ready}


def axes(*definitions: tuple[int, str, str]) -> StepAxes:
    return StepAxes(StepDefinition(*one) for one in definitions)


def test_a_metric_that_comes_first_counts_in_the_rows_that_have_it() -> None:
    """Rows without it, or with no integer there, have the steps that are defined."""
    steps = RowSteps(axes((0, "a", "epoch")), "mlflow_step")
    assert written(
        steps,
        series("a", [0, 1, 2, 3], [0.0] * 4), series("b", [1, 3], [0.0, 0.0]),
        series("epoch", [0, 1], [50.0, 51.0]), series("mlflow_step", [1, 2], [9.0, 8.5]),
    ) == {"a": [50, 9, 2, 3], "b": [9, 3], "epoch": [0, 9], "mlflow_step": [9, 2]}  # fmt: skip


def test_each_key_has_its_own_step_metric() -> None:
    """A key of none keeps W&B's steps, and so does a row that lacks the metric."""
    steps = RowSteps(axes((0, "val/*", "epoch"), (0, "loss", "batch")))
    assert written(
        steps,
        series("val/a", [0, 2], [0.5, 0.6]), series("loss", [0, 1, 2], [3.0, 2.0, 1.0]),
        series("epoch", [2], [9.0]), series("batch", [0, 1, 2], [10.0, 11.0, 12.0]),
    ) == {"val/a": [0, 9], "loss": [10, 11, 12], "epoch": [2], "batch": [0, 1, 2]}  # fmt: skip


def test_a_definition_holds_from_its_step_on() -> None:
    """Rows before it keep what they had."""
    steps = RowSteps(axes((1, "a", "b"), (3, "a", "c"), (4, "a", "")))
    rows = [0, 1, 2, 3, 4]
    block = [
        series("a", rows, [0.0] * 5),
        series("b", rows, [10.0] * 5),
        series("c", rows, [20.0] * 5),
    ]
    assert written(steps, *block)["a"] == [0, 10, 10, 20, 4]


@pytest.mark.parametrize("odd", [0.5, math.nan, math.inf, -math.inf, 2.0**63, -(2.0**63) - 2048])
def test_what_is_no_integer_of_64_bits_is_no_step(odd: float) -> None:
    """The row keeps W&B's step; the others have the metric's."""
    steps = RowSteps(axes((0, "a", "s")))
    found = written(steps, series("a", [0, 1], [1.0, 1.0]), series("s", [0, 1], [odd, -5.0]))
    assert found["a"] == [0, -5]


@pytest.mark.parametrize("value", [0.5, math.nan])
def test_points_of_one_millisecond_stay_apart(value: float) -> None:
    """MLflow takes a point with the same step, time and value for a repeat: the later one keeps
    W&B's step, also in the next block."""
    steps = RowSteps(axes((0, "a", "s")))
    at = [7, 7, 7, 8]
    first = written(steps, series("a", [0, 1, 2, 3], [value, 0.25, value, value], at),
                    series("s", [0, 1, 2, 3], [100.0] * 4))  # fmt: skip
    assert first["a"] == [100, 100, 2, 100]
    second = written(steps, series("a", [4, 5], [value] * 2, [8, 9]),
                     series("s", [4, 5], [100.0] * 2))  # fmt: skip
    assert second["a"] == [4, 100]


def test_without_step_metrics_nothing_waits() -> None:
    """A definition with another purpose changes nothing."""
    steps = RowSteps(axes((0, "a", "")))
    one = series("a", [0], [1.0])
    assert steps.add(one) == [one]


def test_memory_is_bounded_where_no_mark_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept series are released when they are many and a new block begins, never within a block."""
    monkeypatch.setattr(row_steps, "HELD_POINTS", 4)
    axis = RowSteps(StepAxes((), "at"))

    def block(key: str, first: int, values: list[float]) -> list[Series]:
        steps = range(first, first + len(values))
        return axis.add(Series((key,), list(steps), [0] * len(values), values))

    assert block("a", 0, [1.0, 2.0, 3.0]) == []
    assert block("b", 0, [1.0, 2.0, 3.0]) == []
    assert block("at", 0, [7.0, 8.0, 9.0]) == []
    released = block("a", 3, [4.0])
    assert [(series.key, list(series.steps)) for series in released] == [
        (("a",), [7, 8, 9]), (("b",), [7, 8, 9]), (("at",), [7, 8, 9]),
    ]  # fmt: skip
    assert block("at", 3, [10.0]) == []
    assert [list(series.steps) for series in axis.release()] == [[10], [10]]


def test_points_that_have_a_place_of_their_own_keep_it() -> None:
    """Step and time of the point alone; other points of the row and the next block have theirs."""
    steps = RowSteps(axes((0, "*", "epoch")), "mlflow_step")
    steps.add(series("loss", [0, 1, 2], [3.0, 2.0, 1.0]))
    steps.add(series("other", [1], [0.0]))
    steps.add(series("epoch", [1], [8.0]))
    steps.place(1, {"loss": (70, 900)})
    found = {one.key[0]: one for one in steps.release()}
    assert list(found["loss"].steps) == [0, 70, 2]
    assert list(found["loss"].timestamps_ms) == [0, 900, 2000]
    assert (list(found["other"].steps), list(found["other"].timestamps_ms)) == ([8], [1000])
    assert written(steps, series("loss", [1], [2.0])) == {"loss": [1]}
