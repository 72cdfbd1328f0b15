"""Join the points of single keys to rows of a W&B history."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow_wandb_plugin.core.model import Key, RowObjects, Series
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

    def __init__(self, through: int) -> None:
        self.through = through
        self.refused = 0
        self.taken = 0
        self._there = through
        self._rows: dict[int, tuple[int, dict[Key, str]]] = {}

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
