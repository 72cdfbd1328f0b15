"""Compare runs of a source with their replicas in the target, value by value. Write nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mlflow_wandb_plugin.backfill.carrier import selected
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.outcome import Listener
from mlflow_wandb_plugin.core.model import RunInfo, Selection
from mlflow_wandb_plugin.core.protocols import Source, Target
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.errors import MlflowWandbError, UsageError

Result = Literal["equal", "different", "absent", "foreign", "failed"]


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of comparing one run.

    Attributes:
        result: absent: the target has no such run; foreign: another tool wrote it, by other rules;
            failed: it could not be compared, ``reason`` says why.
        checked: number of values compared, by kind.
        differences: the first differences, one line each; ``count`` counts all.
    """

    run: RunInfo
    result: Result
    mlflow_run_id: str = ""
    checked: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    count: int = 0
    reason: str = ""


def verify(
    source: Source,
    target: Target,
    selection: Selection,
    options: BackfillOptions | None = None,
    listener: Listener | None = None,
) -> Iterator[Verified]:
    """Compare each selected run with its replica: points with their steps and times, params, tags,
    name, status, end time, and files by content.

    Raises:
        UsageError: the target cannot be compared with.
        SourceError: the source cannot be listed.
    """
    if not target.comparable:
        raise UsageError("verify compares with an MLflow tracking URI: pass one with --to")
    options, listener = options or BackfillOptions(), listener or Listener()
    for run in selected(source, selection):
        try:
            yield _verified(run, source, target, options, listener)
        except MlflowWandbError as error:
            yield Verified(run, "failed", reason=str(error))


def _verified(
    run: RunInfo, source: Source, target: Target, options: BackfillOptions, listener: Listener
) -> Verified:
    twin = target.find(run)
    if twin is None:
        return Verified(run, "absent", reason="no run in MLflow names it")
    if twin.foreign or twin.adopted:
        return Verified(run, "foreign", twin.run_id, reason="another tool wrote it")
    comparison = target.compare(run, twin)
    try:
        carried = replicate(options.wanted(source.read(run, {})), comparison, listener.points)
    finally:
        comparison.close()
    for unreadable in carried.unreadable:
        comparison.differs(str(unreadable))
    return Verified(
        carried.info or run,
        "different" if comparison.count else "equal",
        twin.run_id,
        dict(comparison.checked),
        tuple(comparison.differences),
        comparison.count,
    )
