"""Completes a run that another tool writes, too (MosaicML Composer logs only some points)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core.model import RunInfo, Series
from mlflow_wandb_plugin.mapping import to_mlflow
from mlflow_wandb_plugin.targets.mlflow.run_points import RunPoints
from mlflow_wandb_plugin.targets.mlflow.run_writer import MlflowRunWriter

if TYPE_CHECKING:
    from mlflow.entities import Run


class MissingPoints(RunPoints):
    """Leaves out points at steps that the run has: the other tool gave them times of its own."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._known_steps: dict[str, set[int]] = {}

    def _append_history(self, series: Series) -> None:
        name = self._names.metrics.name(series.key)
        known = self._steps_of(name)
        points = zip(series.steps, series.timestamps_ms, series.values, strict=True)
        missing = [point for point in points if point[0] not in known]
        if missing:
            steps, times, values = zip(*missing, strict=True)
            self._write(name, values, times, steps)

    def _steps_of(self, name: str) -> set[int]:
        """Steps at which the metric had a point when it was first asked for."""
        if name not in self._known_steps:
            history = self._client.call(self._client.client.get_metric_history, self._run_id, name)
            self._known_steps[name] = {metric.step for metric in history}
        return self._known_steps[name]


class AdoptedRunWriter(MlflowRunWriter):
    """Adds missing points, files and W&B's tags; the run's name, params, status and end stay as
    the other tool left them."""

    points_type = MissingPoints

    def update(self, info: RunInfo) -> None:
        tags = to_mlflow.run_tags(info)
        wandb_tags = {key: value for key, value in tags.items() if key.startswith("wandb.")}
        self._description.set_tags(wandb_tags)

    def finish(self, info: RunInfo, complete: bool) -> None:
        self._points.release()
        self._points.flush()
        self.update(info)
        self._write_end(info, complete)

    def _reopen(self, run: Run, tags: Mapping[str, str]) -> None:
        self._description.set_tags(tags)
