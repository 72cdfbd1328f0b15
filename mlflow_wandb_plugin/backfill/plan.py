"""Decide what a backfill would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_wandb_plugin.backfill.carrier import (
    selected,
    unlisted,
)
from mlflow_wandb_plugin.backfill.decide import (
    Decision,
    decide,
)
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.core.model import RunInfo, Selection, Size
from mlflow_wandb_plugin.core.protocols import Source, Target
from mlflow_wandb_plugin.errors import TargetError, UsageError


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run, the decision on it, and its size; the size is 0 if the run is skipped.

    Attributes:
        experiment: name of the experiment or project that it is in, or would go into.
    """

    run: RunInfo
    decision: Decision
    size: Size
    experiment: str = ""


def plan(
    source: Source, target: Target, selection: Selection, options: BackfillOptions
) -> Iterator[PlannedRun]:
    """Decide on each selected run. Writes no run, point or file.

    Raises:
        SourceError, TargetUnavailableError, TargetError
    """
    for run in selected(source, selection):
        decision = decide(run, source, target, options)
        size = source.size(run) if decision.action == "migrate" else Size()
        yield PlannedRun(run, decision, size, _experiment(run, decision, target))
    for unreadable in source.unreadable:
        yield PlannedRun(*unlisted(unreadable), Size())


def _experiment(run: RunInfo, decision: Decision, target: Target) -> str:
    twin = decision.twin
    if twin is None or not twin.experiment_id:
        return target.destination(run)
    return target.place(twin.experiment_id, twin.run_id).experiment


def dual_experiment(source: Source, target: Target, selection: Selection) -> str:
    """Return the id of the experiment that the selected runs were dual-written into.

    Raises:
        UsageError: none of them was dual-written, or the target has no experiments.
    """
    if not target.has_experiments:
        raise UsageError("--into-dual-experiment needs an MLflow target")
    for run in source.runs(selection):
        if run.config.get("mlflow_run_id"):
            try:
                twin = target.find(run)
            except TargetError:
                continue
            if twin is not None and twin.origin == "dual":
                return twin.experiment_id
    raise UsageError(
        "no dual-written run among the selected ones: leave --into-dual-experiment out, "
        "or name the experiment with --experiment"
    )
