"""Points of single keys become rows of a W&B history."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from mlflow_wandb_plugin.core.model import RowObjects, Series
from mlflow_wandb_plugin.targets.wandb.history_rows import HistoryRows, LackingRows
from mlflow_wandb_plugin.targets.wandb.log_records import number_text


def series(key: str, steps: list[int], values: list[float]) -> Series:
    return Series((key,), steps, [1000 + step for step in steps], values)


def test_keys_of_one_step_are_one_row() -> None:
    """With the objects of the row, by rising step."""
    rows = HistoryRows(-1)
    rows.add_series(series("b", [4, 2], [4.5, 2.0]))
    rows.add_series(series("a", [2], [math.nan]))
    rows.add_objects(RowObjects(4, 1004, {("n", "t"): "text"}))
    found = [(row.step, row.timestamp_ms, dict(row.values)) for row in rows.take()]
    assert found == [
        (2, 1002, {("b",): "2", ("a",): "NaN"}),
        (4, 1004, {("b",): "4.5", ("n", "t"): '"text"'}),
    ]
    assert (rows.refused, rows.taken, list(rows.take())) == (0, 2, [])


def test_rows_that_wandb_has_are_left_out() -> None:
    """They are neither written nor counted as refused."""
    rows = HistoryRows(through=2)
    rows.add_series(series("a", [0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0]))
    assert [row.step for row in rows.take()] == [3]
    assert rows.refused == 0


def test_what_comes_too_late_is_counted() -> None:
    """A smaller step than one that was written, and a second value of a key in a row."""
    rows = HistoryRows(-1)
    rows.add_series(series("a", [5], [1.0]))
    assert len(list(rows.take())) == 1
    rows.add_series(series("a", [4, 6, 6], [1.0, 2.0, 3.0]))
    assert [dict(row.values) for row in rows.take()] == [{("a",): "2"}]
    assert rows.refused == 2


def test_what_a_mirrored_run_has_in_other_rows_is_left_out() -> None:
    """Points are told by key, MLflow's step, time and value, and as often as they are there; media
    by their digest. New rows follow those of the run."""
    image = {"_type": "image-file", "sha256": "ab", "path": "media/images/x_0_ab.png"}
    there = [
        Series(("mlflow_step",), [0, 1, 2], [5000, 5001, 5001], [1, 2, 2]),
        Series(("loss",), [0, 1, 2], [5000, 5001, 5001], [0.5, math.nan, math.nan]),
        RowObjects(0, 5000, {("seen",): image}),
    ]
    rows = LackingRows(there, next_row=3)
    rows.add_series(
        Series(("mlflow_step",), range(5), [5000, 5001, 5001, 5001, 5002], [1, 2, 2, 2, 1])
    )
    nan = math.nan
    rows.add_series(
        Series(("loss",), range(5), [5000, 5001, 5001, 5001, 5002], [0.5, nan, nan, nan, 0.5])
    )
    rows.add_series(Series(("acc",), [0], [5000], [1.0]))
    moved = image | {"path": "media/images/x_7_ab.png"}
    rows.add_objects(RowObjects(0, 5000, {("seen",): moved}))
    found = [(row.step, row.timestamp_ms, dict(row.values)) for row in rows.take()]
    assert found == [
        (3, 5000, {("mlflow_step",): "1", ("acc",): "1"}),
        (4, 5001, {("mlflow_step",): "2", ("loss",): "NaN"}),
        (5, 5002, {("mlflow_step",): "1", ("loss",): "0.5"}),
    ]
    assert (rows.last, rows.taken, rows.refused) == (5, 3, 0)


@given(st.floats())
def test_every_number_is_read_as_it_was(value: float) -> None:
    """The text is JSON, with NaN and infinities as W&B writes them."""
    read = float(json.loads(number_text(value)))
    assert read == value or (math.isnan(read) and math.isnan(value))
