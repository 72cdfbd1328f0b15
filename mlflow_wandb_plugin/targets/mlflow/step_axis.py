"""Points at the value of a metric that the run names as its step, in place of W&B's own count."""

from __future__ import annotations

from mlflow_wandb_plugin.core.model import Series
from mlflow_wandb_plugin.mapping.to_mlflow import is_step

HELD_POINTS = 100_000


class StepAxis:
    """Gives history points the value that the step metric has in their row as their step.

    A row's numbers come as one series a key, in any order: the series of a block wait until all of
    them are there. A row in which the metric is missing, or is no whole number, keeps its step.

    Args:
        metric: the metric's dotted key.
    """

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._held: list[Series] = []
        self._points = 0
        self._highest = -1

    def add(self, series: Series) -> list[Series]:
        """Take a series; returns those that can be written now, with their final steps."""
        ready = []
        if self._points >= HELD_POINTS and series.steps and series.steps[0] > self._highest:
            # A series that starts behind all others begins a new block.
            ready = self.release()
        self._held.append(series)
        self._points += len(series.steps)
        self._highest = max([self._highest, *series.steps[-1:]])
        return ready

    def release(self) -> list[Series]:
        """All that is held. Call it where a block is known to have ended."""
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
