"""Points of single keys become rows of a W&B history."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from mlflow_wandb_plugin.core.model import RowObjects, Series
from mlflow_wandb_plugin.targets.wandb.history_rows import HistoryRows
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


@given(st.floats())
def test_every_number_is_read_as_it_was(value: float) -> None:
    """The text is JSON, with NaN and infinities as W&B writes them."""
    read = float(json.loads(number_text(value)))
    assert read == value or (math.isnan(read) and math.isnan(value))
