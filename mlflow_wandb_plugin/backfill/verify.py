"""Compare runs of a source with their replicas in the target, value by value, and repair them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mlflow_wandb_plugin.backfill.carrier import Carrier, selected
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.outcome import Listener
from mlflow_wandb_plugin.core.identity import Twin
from mlflow_wandb_plugin.core.model import RunInfo, Selection
from mlflow_wandb_plugin.core.protocols import Difference, Source, Target
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.errors import MlflowWandbError, UsageError

Result = Literal["equal", "different", "absent", "foreign", "failed"]

KEPT_DIFFERENCES = 100
CANNOT_CHANGE = "the target cannot change it"


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of comparing one run.

    Attributes:
        result: absent: the target has no such run; foreign: another tool wrote it, by other rules;
            failed: it could not be compared, ``reason`` says why.
        checked: number of values compared, by kind.
        differences: the first differences, one line each; ``count`` counts all.
        by_design: what differs although both are right, one line each with the reason.
        repaired: number of values that were repaired.
        only_in_source: what the target does not have, one line each.
    """

    run: RunInfo
    result: Result
    mlflow_run_id: str = ""
    checked: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    count: int = 0
    by_design: tuple[str, ...] = ()
    repaired: int = 0
    reason: str = ""
    only_in_source: tuple[str, ...] = ()


def verify(
    source: Source,
    target: Target,
    selection: Selection,
    options: BackfillOptions | None = None,
    listener: Listener | None = None,
    repair: bool = False,
) -> Iterator[Verified]:
    """Compare each selected run with its replica: points with their steps and times, params, tags,
    name, status, start and end, and files by content.

    Args:
        repair: write a run that differs again, and compare once more.

    Raises:
        UsageError: the target cannot be compared with.
        SourceError: the source cannot be listed.
    """
    if not target.comparable:
        raise UsageError(
            "verify compares with an MLflow tracking URI or a W&B server: pass one with --to"
        )
    comparing = _Comparing(source, target, options or BackfillOptions(), listener or Listener())
    for run in selected(source, selection):
        try:
            result = comparing.verified(run, repair)
        except MlflowWandbError as error:
            result = _not_compared(run, "failed", str(error))
        except Exception as error:
            # An unforeseen error in one run does not stop the others.
            result = _not_compared(run, "failed", f"{type(error).__name__}: {error}")
        comparing.listener.run_verified()
        yield result


def _not_compared(run: RunInfo, result: Result, reason: str, twin_id: str = "") -> Verified:
    """The result for a run of which the target has nothing that could be compared."""
    return Verified(run, result, twin_id, reason=reason, only_in_source=(reason,))


class _Comparing:
    """Compares and repairs the runs of one source."""

    def __init__(
        self, source: Source, target: Target, options: BackfillOptions, listener: Listener
    ) -> None:
        self._source = source
        self._target = target
        self._options = options
        self.listener = listener

    def verified(self, run: RunInfo, repair: bool) -> Verified:
        """Compare one run; if ``repair``, write it again if it differs, and compare once more."""
        twin = self._target.find(run)
        if twin is None:
            return _not_compared(run, "absent", "no run in the target replicates it")
        if twin.foreign or twin.adopted:
            return _not_compared(run, "foreign", "another tool wrote it", twin.run_id)
        found = self._compared(run, twin)
        return self._repaired(found, twin) if repair and found.result == "different" else found

    def _repaired(self, before: Verified, twin: Twin) -> Verified:
        """Write a run that differs again, and return what differs then."""
        Carrier(self._source, self._target, self._options, self.listener).rewrite(before.run, twin)
        after = self._compared(before.run, twin, suffix=f" ({CANNOT_CHANGE})")
        return replace(after, repaired=before.count - after.count)

    def _compared(self, run: RunInfo, twin: Twin, suffix: str = "") -> Verified:
        """Compare a run with its twin; ``suffix`` follows what writing it again does not mend."""
        comparison = self._target.compare(run, twin)
        try:
            read = self._source.read(run, {})
            items = self._options.wanted(read, run.step_definitions)
            carried = replicate(items, comparison, self.listener.points)
            comparison.compare()
        finally:
            comparison.close()
        for unreadable in carried.unreadable:
            comparison.differs(Difference(str(unreadable)))
        real = [one for one in comparison.differences if not one.by_design]
        lines = (one.what + (suffix if not one.fixable else "") for one in real)
        lost = [f"{count:,} lost: {kind}" for kind, count in comparison.losses.items()]
        here = [
            one.what
            for one in comparison.differences
            if one.only_in == "source" or not (one.by_design or one.only_in)
        ]
        designed = [one for one in comparison.differences if one.by_design]
        return Verified(
            carried.info or run,
            "different" if real else "equal",
            twin.run_id,
            dict(comparison.checked),
            tuple(lines)[:KEPT_DIFFERENCES],
            sum(one.values for one in real),
            tuple(f"{one.what}: {one.by_design}" for one in designed)[:KEPT_DIFFERENCES],
            only_in_source=(*lost, *here)[:KEPT_DIFFERENCES],
        )
