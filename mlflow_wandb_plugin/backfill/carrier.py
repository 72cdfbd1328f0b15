"""Carry runs, one at a time, from a source to a target."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.decide import Decision, decide
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.outcome import Listener, Outcome
from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Twin
from mlflow_wandb_plugin.core.model import Item, RunInfo, Selection, UnreadableRange
from mlflow_wandb_plugin.core.protocols import Source, Target
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.errors import (
    MlflowWandbError,
    SourceError,
    TargetUnusableError,
    UsageError,
)
from mlflow_wandb_plugin.mapping import to_mlflow


def selected(source: Source, selection: Selection) -> Iterator[RunInfo]:
    """List the selected runs of ``source`` that no plugin leaves out.

    Raises:
        UsageError: see `check_selection`.
        SourceError: the source cannot be listed.
    """
    check_selection(source, selection)
    return filter(plugins.takes, source.runs(selection))


def check_selection(source: Source, selection: Selection) -> None:
    """
    Raises:
        UsageError: the source does not know the filter, or has no experiments.
    """
    language = "mlflow" if isinstance(selection.filter, str) else "wandb"
    if selection.filter is not None and source.filter_language != language:
        raise UsageError(
            "--filter is in W&B's language, which only a W&B server understands, or in MLflow's, "
            "for runs in MLflow: use --run, --state, --group, --since or --until"
        )
    if selection.experiments and source.filter_language != "mlflow":
        raise UsageError("only runs in MLflow can be selected by experiment: use --project")


def unlisted(unreadable: UnreadableRange) -> tuple[RunInfo, Decision]:
    """Describe a run that cannot be listed, or is empty, and what is decided on it."""
    run = RunInfo(unreadable.where, project="", state="crashed")
    return run, Decision("new", "refuse" if unreadable.length else "skip", unreadable.reason)


def unlisted_outcomes(source: Source) -> Iterator[Outcome]:
    """Yield the outcomes of runs that ``source`` could not list, once `Source.runs` has ended."""
    for unreadable in source.unreadable:
        yield _not_migrated(*unlisted(unreadable))


def _not_migrated(run: RunInfo, decision: Decision) -> Outcome:
    twin = decision.twin
    ids = ("", "") if twin is None else (twin.run_id, twin.experiment_id)
    action = "skipped" if decision.action == "skip" else "failed"
    return Outcome(run, decision.verdict, action, decision.reason, *ids)


def _without_secrets(outcome: Outcome, secrets: Secrets) -> Outcome:
    """Return ``outcome`` as it may be in a report."""
    run = to_mlflow.shown(outcome.run, secrets)
    return replace(outcome, run=run, reason=secrets.text(outcome.reason))


class Carrier:
    """Carries runs from a source to a target; thread-safe where they are.

    Args:
        curves: keeps points for the report's curves; None keeps none.
    """

    def __init__(
        self,
        source: Source,
        target: Target,
        options: BackfillOptions,
        listener: Listener,
        curves: Curves | None = None,
    ) -> None:
        self._curves = curves
        self._source = source
        self._target = target
        self._options = options
        self._listener = listener
        self._secrets = Secrets.of_setting()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the runs that are being carried; another backfill continues them."""
        self._stopped.set()

    def carry(self, run: RunInfo) -> Outcome:
        """Carry one run. An error becomes the outcome. May be called again.

        Raises:
            TargetUnusableError: no run can be written.
        """
        decision = Decision("new", "migrate")
        try:
            decision = decide(run, self._source, self._target, self._options)
            self._name_twin_in_config(run, decision)
            migrate = decision.action == "migrate"
            outcome = self._migrate(run, decision) if migrate else _not_migrated(run, decision)
        except TargetUnusableError:
            raise
        except MlflowWandbError as error:
            outcome = Outcome(run, decision.verdict, "failed", str(error))
        except Exception as error:
            # An unforeseen error in one run does not stop the others.
            outcome = Outcome(run, decision.verdict, "failed", f"{type(error).__name__}: {error}")
        finally:
            self._target.settle(run)
        outcome = _without_secrets(self._placed(outcome), self._secrets)
        self._listener.run_done(outcome)
        return outcome

    def _placed(self, outcome: Outcome) -> Outcome:
        """Add where a user finds the run; it is carried all the same if MLflow does not say."""
        with contextlib.suppress(MlflowWandbError):
            if outcome.mlflow_run_id and outcome.experiment_id:
                place = self._target.place(outcome.experiment_id, outcome.mlflow_run_id)
                return replace(outcome, experiment=place.experiment, link=place.link)
        return outcome

    def rewrite(self, run: RunInfo, twin: Twin) -> Outcome:
        """Write all of a run into its replica again.

        Raises:
            MlflowWandbError: it could not be read or written.
        """
        verdict = identity.verdict(run, twin)
        return self._migrate(run, Decision(verdict, "migrate", "", twin, from_start=True))

    def _name_twin_in_config(self, run: RunInfo, decision: Decision) -> None:
        """Let the W&B config of a dual-written run name its twin, if it does not: MLflow may have
        answered too late. The run is carried all the same if W&B refuses."""
        twin = decision.twin
        if twin is None or twin.origin != "dual" or identity.RUN_ID_CONFIG_KEY in run.config:
            return
        with contextlib.suppress(MlflowWandbError):
            self._source.add_to_config(run, self._target.config_keys(twin))

    def _migrate(self, run: RunInfo, decision: Decision) -> Outcome:
        writer = self._target.open(run, "backfill", decision.twin)
        try:
            asked = self._options.selection
            complete = identity.selection_of(run, asked) == identity.EVERYTHING
            since = writer.restart(complete) if decision.from_start else writer.position
            since = dict(since)
            items = self._source.read(run, since)
            if self._curves is not None:
                items = self._curves.watch(run.run_id, items)
            items = self._options.wanted(items, run.step_definitions)
            carried = replicate(
                self._announced(items), writer, self._listener.points, withhold_last_checkpoint=True
            )
        finally:
            writer.close()
        if carried.info is None:
            raise SourceError(f"the source has nothing of run {run.path}")
        action, reason = "migrated" if decision.twin is None else "repaired", decision.reason
        still_running = carried.info.state == "running" and decision.twin is not None
        if still_running and since == writer.position:
            action, reason = "skipped", "still running, and nothing new"
        return Outcome(
            carried.info,
            decision.verdict,
            action,
            reason,
            mlflow_run_id=writer.run_id,
            experiment_id=writer.experiment_id,
            points=carried.points,
            losses=dict(writer.losses),
            unreadable=tuple(carried.unreadable),
        )

    def _announced(self, items: Iterable[Item]) -> Iterator[Item]:
        """Tell the listener how many points to expect, once."""
        announced = False
        for item in items:
            if self._stopped.is_set():
                raise SourceError("interrupted")
            if not announced and isinstance(item, RunInfo) and item.points is not None:
                announced = True
                self._listener.points_expected(item.points)
            yield item
