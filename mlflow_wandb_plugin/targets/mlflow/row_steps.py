"""Steps of points: the value that the step metric of their key has in the same row."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlflow_wandb_plugin.core.model import Key, Series
from mlflow_wandb_plugin.core.step_axes import StepAxes
from mlflow_wandb_plugin.mapping import to_mlflow

HELD_POINTS = 100_000
"""Points that wait for their step metric, as a rule."""


class RowSteps:
    """Replaces the step of each history point by the value of its step metric in the same row.

    The numbers of a block of rows come as one series per key, in any order: they are kept until
    the block has ended. A row without the metric, or with a value that is not an integer of 64
    bits, keeps its step. So does a point that MLflow would take for the repeat of another one: it
    has the same step, time and value as an earlier point of its key.

    Attributes:
        axes: which metrics' values are the steps of which keys.
        first: dotted key of a metric whose values are the steps of all points in the rows that
            have it, whatever the axes say; empty for none.
    """

    def __init__(self, axes: StepAxes, first: str = "") -> None:
        self.axes = axes
        self.first = first
        self._held: list[Series] = []
        self._points = 0
        self._highest = -1
        self._places: dict[str, dict[int, tuple[int, int]]] = {}
        self._latest: dict[Key, tuple[int, set[tuple[int, float | None]]]] = {}
        """Unix ms of each key's latest point, and (step, value) of its points of that time."""

    def add(self, series: Series) -> list[Series]:
        """Take a series; return those whose steps are known now."""
        if not (self.axes.any or self.first):
            return [series]
        ready = []
        if self._points >= HELD_POINTS and series.steps and series.steps[0] > self._highest:
            # A series that starts after all others begins a new block.
            ready = self.release()
        self._held.append(series)
        self._points += len(series.steps)
        self._highest = max([self._highest, *series.steps[-1:]])
        return ready

    def place(self, row: int, places: Mapping[str, tuple[int, int]]) -> None:
        """Set the step and time (Unix ms) of points of a row, by dotted key."""
        for key, place in places.items():
            self._places.setdefault(key, {})[row] = place

    def release(self) -> list[Series]:
        """Return all series. Call it at the end of a block."""
        held, self._held = self._held, []
        self._points, self._highest = 0, -1
        columns = _Columns(held, self.axes.metrics | {self.first} - {""})
        ready = [self._placed(series.steps, self._replaced(series, columns)) for series in held]
        self._places = {}
        return ready

    def _placed(self, rows: Sequence[int], series: Series) -> Series:
        """``series`` with the steps and times that `place` has set for points of ``rows``."""
        places = self._places.get(".".join(series.key), {})
        if places.keys().isdisjoint(rows):
            return series
        points = zip(rows, series.steps, series.timestamps_ms, strict=True)
        pairs = [places.get(row, (step, at_ms)) for row, step, at_ms in points]
        steps, times_ms = zip(*pairs, strict=True)
        return replace(series, steps=steps, timestamps_ms=times_ms)

    def _replaced(self, series: Series, columns: _Columns) -> Series:
        since, metrics = self.axes.spans(".".join(series.key))
        if len(since) == 1:
            steps = columns.steps(series.steps, metrics[0])
        else:
            named = [metrics[max(0, bisect_right(since, step) - 1)] for step in series.steps]
            steps = [
                columns.step(step, metric) for step, metric in zip(series.steps, named, strict=True)
            ]
        if self.first:
            steps = columns.overridden(series.steps, steps, self.first)
        if steps is series.steps:
            return series
        return replace(series, steps=self._apart(series, steps, columns))

    def _apart(self, series: Series, steps: Sequence[int], columns: _Columns) -> Sequence[int]:
        """Leave W&B's step to points that would be repeats of others of the same millisecond."""
        last_ms, taken = self._latest.get(series.key, (-1, set()))
        times = series.timestamps_ms
        if times and times[0] != last_ms and columns.are_distinct(times):
            value = series.values[-1]
            number = None if math.isnan(value) else value
            self._latest[series.key] = times[-1], {(steps[-1], number)}
            return steps
        apart = list(steps)
        for at, (time_ms, value) in enumerate(zip(times, series.values, strict=True)):
            if time_ms != last_ms:
                last_ms, taken = time_ms, set()
            number = None if math.isnan(value) else value
            if (apart[at], number) in taken:
                apart[at] = series.steps[at]
            taken.add((apart[at], number))
        self._latest[series.key] = last_ms, taken
        return apart


class _Columns:
    """The values of step metrics in a block of rows, by W&B's step of the row."""

    def __init__(self, block: Sequence[Series], metrics: frozenset[str]) -> None:
        self._values: dict[str, dict[int, int]] = {name: {} for name in metrics}
        self._distinct: dict[int, tuple[Sequence[int], bool]] = {}
        self._known: dict[tuple[str, int], tuple[Sequence[int], list[int]]] = {}
        for series in block:
            column = self._values.get(".".join(series.key))
            if column is not None:
                pairs = zip(series.steps, series.values, strict=True)
                column.update(
                    (step, int(value)) for step, value in pairs if to_mlflow.is_step(value)
                )

    def are_distinct(self, times_ms: Sequence[int]) -> bool:
        """Whether no two of a series' times are the same; looked at once where keys share them."""
        found = self._distinct.get(id(times_ms))
        if found is None:
            found = times_ms, len(set(times_ms)) == len(times_ms)
            self._distinct[id(times_ms)] = found
        return found[1]

    def step(self, step: int, metric: str) -> int:
        """Return the value of ``metric`` in the row at ``step``, else ``step``."""
        return self._values[metric].get(step, step) if metric else step

    def overridden(self, rows: Sequence[int], steps: Sequence[int], metric: str) -> Sequence[int]:
        """Return ``steps``, but the values of ``metric`` where the ``rows`` have it."""
        column = self._values[metric]
        if column.keys().isdisjoint(rows):
            return steps
        return [column.get(row, step) for row, step in zip(rows, steps, strict=True)]

    def steps(self, steps: Sequence[int], metric: str) -> Sequence[int]:
        """Return the values of ``metric`` in the rows at ``steps``. Keys that every row has share
        their steps, which are looked up once."""
        if not metric:
            return steps
        found = self._known.get((metric, id(steps)))
        if found is None:
            column = self._values[metric]
            found = steps, [column.get(step, step) for step in steps]
            self._known[metric, id(steps)] = found
        return found[1]
