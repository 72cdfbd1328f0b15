"""Steps that are the values of a metric, in place of W&B's own steps."""

from __future__ import annotations

from mlflow_wandb_plugin.core.model import Series
from mlflow_wandb_plugin.mapping.to_mlflow import is_step

HELD_POINTS = 100_000


class StepAxis:
    """Replaces the step of each history point by the value of the step metric in the same row.

    The numbers of a block of rows come as one series per key, in any order: they are kept until
    the block has ended. A row without the metric, or with a value that is not an integer, keeps
    its step.

    Args:
        metric: the metric's dotted key.
    """

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._held: list[Series] = []
        self._points = 0
        self._highest = -1

    def add(self, series: Series) -> list[Series]:
        """Take a series; return those whose steps are known now."""
        ready = []
        if self._points >= HELD_POINTS and series.steps and series.steps[0] > self._highest:
            # A series that starts after all others begins a new block.
            ready = self.release()
        self._held.append(series)
        self._points += len(series.steps)
        self._highest = max([self._highest, *series.steps[-1:]])
        return ready

    def release(self) -> list[Series]:
        """Return all series. Call it at the end of a block."""
        held, self._held = self._held, []
        self._points, self._highest = 0, -1
        steps = {
            step: int(value)
            for series in held
            if ".".join(series.key) == self._metric
            for step, value in zip(series.steps, series.values, strict=True)
            if is_step(value)
        }
        return [
            Series(
                series.key,
                [steps.get(step, step) for step in series.steps],
                series.timestamps_ms,
                series.values,
            )
            for series in held
        ]
