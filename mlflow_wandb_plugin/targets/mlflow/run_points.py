"""Points of one run: the names of their metrics, and their steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_wandb_plugin.core.metric_rules import MetricRules
from mlflow_wandb_plugin.core.model import RowObjects, RunInfo, Series
from mlflow_wandb_plugin.core.step_axes import StepAxes
from mlflow_wandb_plugin.mapping import from_wandb_mirror, system_metrics, to_mlflow, to_wandb
from mlflow_wandb_plugin.mlflow_access.point_blocks import BulkWriter, Points
from mlflow_wandb_plugin.targets.mlflow.batches import Batches
from mlflow_wandb_plugin.targets.mlflow.files.run_names import RunNames
from mlflow_wandb_plugin.targets.mlflow.point_writer import PointWriter
from mlflow_wandb_plugin.targets.mlflow.row_steps import RowSteps


class RunPoints:
    """Names W&B's points, sets their steps, and keeps them in memory until they are many.

    Args:
        bulk: writes many points at once; None where only MLflow's API can.
        rules: of plugins, for the run's keys.
        axes: which metrics' values are the steps of which keys.
        start_ms: the run's start in Unix ms.
        latest: each metric's latest value in MLflow when the run was opened.
        restores: the run was created in MLflow: the metric of all steps holds MLflow's steps, and
            is no metric.

    Attributes:
        of_summary: (step, Unix ms) of the points that come from a summary, by metric, in the order
            of the logs.
    """

    def __init__(
        self,
        batches: Batches,
        bulk: BulkWriter | None,
        names: RunNames,
        rules: MetricRules,
        axes: StepAxes,
        start_ms: int,
        latest: Mapping[str, float],
        restores: bool = False,
    ) -> None:
        self._client, self._run_id = batches.client, batches.run_id
        self._names = names
        self._rules = rules
        self._start_ms = start_ms
        self._latest = latest
        self.of_summary: dict[str, list[tuple[int, int]]] = {}
        self._restores = restores
        self._restarted = False
        self._has_calls = False
        self._steps = RowSteps(axes)
        self._writer = PointWriter(batches, bulk)

    def count_seconds_from(self, start_ms: int) -> None:
        """Set the Unix ms from which the steps of system metrics are counted."""
        self._start_ms = start_ms

    def restart(self) -> None:
        """Do not rely on latest values: somebody may have removed their points."""
        self._restarted = True

    @property
    def axes(self) -> StepAxes:
        """Which metrics' values are the steps of which keys."""
        return self._steps.axes

    def define(self, axes: StepAxes) -> None:
        """Set which metrics' values are the steps of the points that come from now on."""
        self.release()
        self._steps.axes = axes

    def note_calls(self, has_calls: bool) -> None:
        """Set whether rows of MLflow's calls are among those that come from now on: their steps are
        in `STEP_METRIC` of `mapping.to_wandb`, which is no metric."""
        if has_calls != self._has_calls:
            self.release()
            self._has_calls = has_calls
            self._steps.first = to_wandb.STEP_METRIC if has_calls else ""

    def append(self, series: Series) -> None:
        """Take points; those that wait for their step metric are written after `release`."""
        if series.kind == "system":
            if not self._restores:
                # Of the machine that wrote the run to W&B.
                self._append_system(series)
        else:
            for ready in self._steps.add(series):
                self._append_history(ready)

    def release(self) -> None:
        """Stop waiting for values of step metrics: a block of the log has ended."""
        for series in self._steps.release():
            self._append_history(series)

    def take_places(self, row: RowObjects) -> RowObjects:
        """Take what a row says of points that MLflow's calls have logged; return the rest."""
        if not self._has_calls:
            return row
        row, places = to_mlflow.places_of_calls(row)
        self._steps.place(row.step, places)
        return row

    def append_summary(self, info: RunInfo) -> None:
        """Take the numbers of the summary that history does not end with, and MLflow lacks."""
        for key, (value, step, at) in to_mlflow.summary_points(info, self.axes).items():
            rule = self._rules.of_summary(key)
            if rule.drop:
                continue
            name = self._names.metrics.name(key, rule.name)
            [value] = rule.written([value])
            self.of_summary.setdefault(name, []).append((step, at))
            if key in info.last or not self._ends_with(name, value, step):
                self._write(Points(name, (value,), (at,), (step,)))

    def _ends_with(self, name: str, value: float, step: int) -> bool:
        """Whether the metric's latest point had this value when the run was opened."""
        if name not in self._latest or not to_mlflow.same_value(self._latest[name], value):
            return False
        if not self._restarted:
            return True
        history = self._client.call(self._client.mlflow.get_metric_history, self._run_id, name)
        return any(one.step <= step and to_mlflow.same_value(one.value, value) for one in history)

    def flush(self, then: Sequence[Callable[[], object]] = ()) -> None:
        """Save the original keys of new names, then write all points, and ``then`` as in
        `PointWriter.flush`."""
        self._names.save()
        self._writer.flush(then)

    def _append_history(self, series: Series) -> None:
        if self._restores:
            if ".".join(series.key) in self.axes.metrics:
                return
            series = from_wandb_mirror.metric_series(series)
        elif self._has_calls and series.key == (to_wandb.STEP_METRIC,):
            return
        rule = self._rules.of(series.key)
        if rule.drop:
            return
        name = self._names.metrics.name(series.key, rule.name)
        values = rule.written(series.values)
        self._write_history(Points(name, values, series.timestamps_ms, series.steps))

    def _write_history(self, points: Points) -> None:
        self._write(points)

    def _append_system(self, series: Series) -> None:
        """The step of a system point is the number of whole seconds since the run's start: it
        rises, and does not depend on which process computes it."""
        named = [system_metrics.system_metric(series.key[0], value) for value in series.values]
        if named:
            name = self._names.metrics.name((named[0][0],))
            steps = [max(0, at - self._start_ms) // 1000 for at in series.timestamps_ms]
            values = [scaled for _, scaled in named]
            self._write(Points(name, values, series.timestamps_ms, steps))

    def _write(self, points: Points) -> None:
        self._writer.append(points)
        if self._writer.full:
            self.flush()


class MissingPoints(RunPoints):
    """Leaves out points at steps that the run has: the other tool gave them times of its own."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._known_steps: dict[str, set[int]] = {}

    def _write_history(self, points: Points) -> None:
        known = self._steps_of(points.name)
        rows = zip(points.values, points.timestamps_ms, points.steps, strict=True)
        missing = [row for row in rows if row[2] not in known]
        if missing:
            self._write(Points(points.name, *zip(*missing, strict=True)))

    def _steps_of(self, name: str) -> set[int]:
        """Steps at which the metric had a point when it was first asked for."""
        if name not in self._known_steps:
            history = self._client.call(self._client.mlflow.get_metric_history, self._run_id, name)
            self._known_steps[name] = {metric.step for metric in history}
        return self._known_steps[name]
