"""Join the points of single keys to rows of a W&B history."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator

from mlflow_wandb_plugin.core.model import Item, Key, RowObjects, Series
from mlflow_wandb_plugin.mapping.to_wandb import STEP_METRIC
from mlflow_wandb_plugin.targets.wandb.log_records import HistoryRow, json_text, number_text


class HistoryRows:
    """The rows of one block of a run's items, by step.

    W&B keeps one row a step, and its steps rise. A row that comes later with a step that was
    written before, or a second value of a key in one row, cannot be written: it is counted.

    Args:
        through: the last step that W&B has; rows up to it are left out. -1 if there is none.

    Attributes:
        through: the last step that was taken.
        refused: number of points that cannot be written.
        taken: number of rows that `take` has yielded.
    """

    @property
    def last(self) -> int:
        """Number of the last row that W&B has when what was taken has arrived; -1 for none."""
        return self.through

    def __init__(self, through: int) -> None:
        self.through = through
        self.refused = 0
        self.taken = 0
        self._there = through
        self._rows: dict[int, tuple[int, dict[Key, str]]] = {}

    def add(self, item: Item) -> None:
        """Add what ``item`` has of rows."""
        if isinstance(item, Series) and item.kind == "history":
            self.add_series(item)
        elif isinstance(item, RowObjects):
            self.add_objects(item)

    def add_series(self, series: Series) -> None:
        key = series.key
        for step, at_ms, value in zip(
            series.steps, series.timestamps_ms, series.values, strict=True
        ):
            self._add(int(step), int(at_ms), key, number_text(float(value)))

    def add_objects(self, row: RowObjects) -> None:
        for key, value in row.values.items():
            self._add(row.step, row.timestamp_ms, key, json_text(value))

    def _add(self, step: int, at_ms: int, key: Key, text: str) -> None:
        if step <= self._there:
            return
        row = self._rows.get(step)
        if row is None:
            if step <= self.through:
                self.refused += 1
                return
            row = self._rows[step] = (at_ms, {})
        if key in row[1]:
            self.refused += 1
        else:
            row[1][key] = text

    def take(self) -> Iterator[HistoryRow]:
        """Yield the rows that were added since the last call, by step."""
        rows, self._rows = self._rows, {}
        for step in sorted(rows):
            self.through = step
            self.taken += 1
            yield HistoryRow(step, *rows[step])


class LackingRows(HistoryRows):
    """The points that a mirrored run lacks. The mirror numbers rows by calls, so what it has is
    found by key, MLflow's step, time and value; new rows follow those that are there.

    Args:
        there: the items of the run in W&B.
        next_row: number of the row behind its last one.
    """

    def __init__(self, there: Iterable[Item], next_row: int) -> None:
        super().__init__(-1)
        has = HistoryRows(-1)
        for item in there:
            has.add(item)
        self._has = Counter(point for row in has.take() for point in _points(row).values())
        self._next = next_row

    @property
    def last(self) -> int:
        return self._next - 1

    def take(self) -> Iterator[HistoryRow]:
        for row in super().take():
            points = _points(row)
            lacking = {key for key, point in points.items() if not self._has[point]}
            self._has -= Counter(point for key, point in points.items() if key not in lacking)
            if not lacking:
                self.taken -= 1
                continue
            lacking.add((STEP_METRIC,))
            values = {key: text for key, text in row.values.items() if key in lacking}
            yield HistoryRow(self._next, row.timestamp_ms, values)
            self._next += 1


def _points(row: HistoryRow) -> dict[Key, tuple[Key, str, int, str]]:
    """What identifies each value of a row, by key: also MLflow's step, time in ms and content."""
    step = row.values.get((STEP_METRIC,), "0")
    return {
        key: (key, step, row.timestamp_ms, _content(text))
        for key, text in row.values.items()
        if key != (STEP_METRIC,)
    }


def _content(text: str) -> str:
    """The text of a value; of a media file its digest, for its path has the number of its row."""
    value = json.loads(text) if text.startswith("{") else None
    return str(value["sha256"]) if isinstance(value, dict) and "sha256" in value else text
