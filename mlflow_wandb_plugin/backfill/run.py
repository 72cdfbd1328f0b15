"""The engine: read a run from a source, write it to a target. Live replication and every
backfill are this one loop; they differ in the source's patience only."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Twin, Verdict
from mlflow_wandb_plugin.core.model import (
    Item,
    RunInfo,
    Selection,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.protocols import Source, Target
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.errors import MlflowWandbError, SourceError, UsageError


class Listener:
    """Told of progress. The default hears nothing; the CLI draws a bar."""

    def points_expected(self, count: int) -> None: ...

    def points(self, count: int) -> None: ...

    def run_done(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run.

    Attributes:
        action: migrated, repaired, skipped or failed; reason says why, in words.
        mlflow_run_id: of the twin, where there is one.
    """

    run: RunInfo
    verdict: Verdict
    action: str
    reason: str = ""
    mlflow_run_id: str = ""
    points: int = 0
    losses: Mapping[str, int] = field(default_factory=dict)
    unreadable: tuple[UnreadableRange, ...] = ()


def backfill(
    source: Source,
    target: Target,
    selection: Selection,
    options: BackfillOptions | None = None,
    listener: Listener | None = None,
) -> Iterator[Outcome]:
    """Carry the selected runs to the target; yield an outcome a run, as each is done.

    Runs that the target already has complete are skipped, runs with holes are filled. One
    run's failure does not stop the others.

    Raises:
        SourceError: the source cannot be listed.
    """
    options = options or BackfillOptions()
    one = Carrier(source, target, options, listener or Listener())
    with concurrent.futures.ThreadPoolExecutor(options.workers, "mlflow-wandb-backfill") as pool:
        waiting: set[concurrent.futures.Future[Outcome]] = set()
        for run in selected(source, selection):
            waiting.add(pool.submit(one.carry, run))
            if len(waiting) >= 2 * options.workers:
                done, waiting = concurrent.futures.wait(
                    waiting, return_when=concurrent.futures.FIRST_COMPLETED
                )
                yield from (future.result() for future in done)
        for future in concurrent.futures.as_completed(waiting):
            yield future.result()
    yield from unlisted_outcomes(source)


def _choose_write_path(target: Target, options: BackfillOptions) -> None:
    use = getattr(target, "use_write_path", None)
    if use is None:
        raise UsageError("--write-path needs an MLflow target")
    use(options.write_path)


def selected(source: Source, selection: Selection) -> Iterator[RunInfo]:
    """The selected runs of ``source``.

    Raises:
        UsageError: a filter is given, and the source knows none.
        SourceError: the source cannot be listed.
    """
    if selection.filter and not getattr(source, "filters", False):
        raise UsageError(
            "--filter is W&B's own language, which only a W&B server speaks: "
            "use --run, --state, --group, --since or --until"
        )
    return source.runs(selection)


def unlisted(unreadable: UnreadableRange) -> tuple[RunInfo, Decision]:
    """A run of which the source knows no more than that it cannot be read, or is empty."""
    run = RunInfo(unreadable.where, project="", state="crashed")
    return run, Decision("new", "refuse" if unreadable.length else "skip", unreadable.reason)


def unlisted_outcomes(source: Source) -> Iterator[Outcome]:
    """Of the runs that ``source`` could not list; complete once `Source.runs` has ended."""
    yield from map(_outcome, getattr(source, "unreadable", ()))


def _outcome(unreadable: UnreadableRange) -> Outcome:
    run, decision = unlisted(unreadable)
    action = "skipped" if decision.action == "skip" else "failed"
    return Outcome(run, decision.verdict, action, decision.reason)


class Carrier:
    """Carries one run after another from a source to a target; thread-safe where they are.

    Raises:
        UsageError: the target has no such write path.
    """

    def __init__(
        self, source: Source, target: Target, options: BackfillOptions, listener: Listener
    ) -> None:
        if hasattr(source, "artifacts"):
            # A source that can leave them out need not fetch them first.
            source.artifacts = options.artifacts
        if options.write_path != "auto":
            _choose_write_path(target, options)
        self._source = source
        self._target = target
        self._options = options
        self._listener = listener

    def carry(self, run: RunInfo) -> Outcome:
        """Never raises: what goes wrong with a run is its outcome. May be called again."""
        decision = Decision("new", "migrate")
        try:
            decision = decide(run, self._target, self._options)
            if decision.action == "migrate":
                outcome = self._migrate(run, decision)
            else:
                twin_id = decision.twin.run_id if decision.twin is not None else ""
                action = "skipped" if decision.action == "skip" else "failed"
                outcome = Outcome(run, decision.verdict, action, decision.reason, twin_id)
        except MlflowWandbError as error:
            outcome = Outcome(run, decision.verdict, "failed", str(error))
        except Exception as error:
            # Whatever one run's log holds, the other runs go on.
            outcome = Outcome(run, decision.verdict, "failed", f"{type(error).__name__}: {error}")
        self._listener.run_done(outcome)
        return outcome

    def _migrate(self, run: RunInfo, decision: Decision) -> Outcome:
        writer = self._target.open(run, "backfill", decision.twin)
        try:
            # `--existing update` looks at everything again: other metrics may be wanted now.
            since = writer.restart() if decision.verdict == "existing" else writer.position
            items = self._options.wanted(self._source.read(run, since))
            carried = replicate(self._announced(items), writer, self._listener.points, prompt=False)
        finally:
            writer.close()
        if carried.info is None:
            raise SourceError(f"its source tells nothing of run {run.path}")
        return Outcome(
            carried.info,
            decision.verdict,
            "migrated" if decision.twin is None else "repaired",
            decision.reason,
            mlflow_run_id=writer.run_id,
            points=carried.points,
            losses=dict(writer.losses),
            unreadable=tuple(carried.unreadable),
        )

    def _announced(self, items: Iterable[Item]) -> Iterator[Item]:
        told = False
        for item in items:
            if not told and isinstance(item, RunInfo) and item.points is not None:
                told = True
                self._listener.points_expected(item.points)
            yield item


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a run, and why. ``twin`` is the run to go on with or to leave alone."""

    verdict: Verdict
    action: Literal["migrate", "skip", "refuse"]
    reason: str = ""
    twin: Twin | None = None


def decide(run: RunInfo, target: Target, options: BackfillOptions) -> Decision:
    """The verdict on ``run`` and what ``options`` make of it. Writes nothing.

    Raises:
        TargetUnavailableError, TargetError: the target cannot be asked.
    """
    twin = target.find(run, dual=options.dual_written != "ignore")
    verdict = identity.verdict(run, twin)
    if twin is None:
        marker = run.config.get("mlflow_run_id")
        lost = f"its marker leads to no live MLflow run ({marker})" if marker else ""
        return Decision(verdict, "migrate", lost if options.dual_written != "ignore" else "")
    if twin.origin == "dual" and options.dual_written == "trust":
        return Decision("dual-written", "skip", "dual-written, by its marker", twin)
    if verdict == "dual-written":
        reason = "born in MLflow" if twin.origin == identity.MIRROR else "dual-written and complete"
        return Decision(verdict, "skip", reason, twin)
    if verdict in ("existing", "foreign"):
        return _existing(verdict, twin, options)
    return Decision(verdict, "migrate", "", twin)


def _existing(verdict: Verdict, twin: Twin, options: BackfillOptions) -> Decision:
    what = "migrated by another tool" if verdict == "foreign" else "migrated before and complete"
    if options.existing == "skip":
        return Decision(verdict, "skip", what, twin)
    if options.existing == "fail":
        return Decision(verdict, "refuse", f"{what} (--existing fail)", twin)
    # Another tool's points carry other times: ours beside them would double the run.
    return Decision(verdict, "migrate", "", None if verdict == "foreign" else twin)
