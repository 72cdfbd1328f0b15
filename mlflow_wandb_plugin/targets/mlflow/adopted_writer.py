"""Fills the holes of a run that another tool dual-writes (MosaicML Composer thins its series)."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_wandb_plugin.core.model import RunInfo, Series
from mlflow_wandb_plugin.mapping import to_mlflow
from mlflow_wandb_plugin.targets.mlflow.run_writer import MlflowRunWriter


class AdoptedRunWriter(MlflowRunWriter):
    """Writes only points at steps that the run lacks: what it has carries other times.

    Its name, params, status and end stay as the other tool left them.
    """

    def update(self, info: RunInfo) -> None:
        tags = to_mlflow.run_tags(info)
        self._set_tags({key: value for key, value in tags.items() if key.startswith("wandb.")})

    def _append_history(self, series: Series) -> None:
        series = self._missing(series)
        if series.values:
            super()._append_history(series)

    def _missing(self, series: Series) -> Series:
        name = self._names.name(series.key)
        known = self._known_steps.get(name)
        if known is None:
            history = self._client.call(self._client.client.get_metric_history, self.run_id, name)
            known = self._known_steps[name] = {metric.step for metric in history}
        points = zip(series.steps, series.timestamps_ms, series.values, strict=True)
        kept = [point for point in points if point[0] not in known]
        steps, times, values = zip(*kept, strict=True) if kept else ((), (), ())
        return Series(series.key, steps, times, values)

    def finish(self, info: RunInfo, complete: bool) -> None:
        self._append_all(self._axis.release())
        self._flush()
        self.update(info)
        self._remember(info, complete)

    def _reopen(self, tags: Mapping[str, str]) -> None:
        self._known_steps: dict[str, set[int]] = {}
        self._set_tags(tags)
