"""Decide what a backfill does with a run that the target may already have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Twin, Verdict
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.protocols import Source, Target

NARROWER = "migrated before with other metrics or without artifacts"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a run, and why.

    Attributes:
        twin: its replica, to be continued or skipped.
        from_start: write all of the run again, whatever the replica says of its position.
    """

    verdict: Verdict
    action: Literal["migrate", "skip", "refuse"]
    reason: str = ""
    twin: Twin | None = None
    from_start: bool = False


def decide(run: RunInfo, source: Source, target: Target, options: BackfillOptions) -> Decision:
    """Look for the replica of ``run`` and decide by ``options`` what to do. Writes nothing.

    Raises:
        UnavailableError, SourceError, TargetError: one of them did not answer, or refused.
    """
    twin = target.find(run)
    verdict = identity.verdict(run, twin, options.selection)
    if twin is None:
        return Decision(verdict, "migrate", _unknown_marker(run, options))
    if twin.origin == "dual" and options.dual_written == "trust":
        return Decision("dual-written", "skip", "dual-written, according to its config", twin)
    if verdict == "dual-written":
        return _dual_written(run, twin, source, target, options)
    if verdict in ("existing", "foreign"):
        return _existing(verdict, twin, options)
    narrower = not twin.has(identity.selection_of(run, options.selection))
    reason = NARROWER if narrower and twin.complete(run) else ""
    # The log of a run that wandb-core ended after it was carried has grown.
    again = narrower or twin.end_is_news(run)
    return Decision(verdict, "migrate", reason, twin, from_start=again)


def _dual_written(
    run: RunInfo, twin: Twin, source: Source, target: Target, options: BackfillOptions
) -> Decision:
    """Decide on a run whose tags say that it was dual-written completely."""
    if twin.beside:
        reason = f"logged beside the W&B run {twin.run_id}: each of the two names the other"
        return Decision("dual-written", "skip", reason, twin)
    if twin.origin == identity.MIRROR:
        return Decision("dual-written", "skip", "created in MLflow", twin)
    if options.existing == "update":
        return Decision("dual-written", "migrate", "", twin, from_start=True)
    counts = source.point_counts(run)
    lacking = "" if counts is None else target.lacking(run, twin, options.taken(counts))
    if lacking:
        return Decision("partial", "migrate", lacking, twin, from_start=True)
    return Decision("dual-written", "skip", "dual-written and complete", twin)


def _unknown_marker(run: RunInfo, options: BackfillOptions) -> str:
    """Say that the run's config names an MLflow run which is not taken for its replica."""
    marker = run.config.get(identity.RUN_ID_CONFIG_KEY)
    created_there = marker == run.run_id
    if not marker or created_there or options.dual_written == "ignore":
        return ""
    named = f"the MLflow run that its config names ({marker})"
    if options.adopt_dual:
        return f"{named} does not exist, or replicates another run"
    return f"{named} does not exist, or lacks its tags (--adopt-dual completes such a run)"


def _existing(verdict: Verdict, twin: Twin, options: BackfillOptions) -> Decision:
    what = "migrated by another tool" if verdict == "foreign" else "migrated before and complete"
    if options.existing == "skip":
        return Decision(verdict, "skip", what, twin)
    if options.existing == "fail":
        return Decision(verdict, "refuse", f"{what} (--existing fail)", twin)
    # Another tool's points have other times: adding ours would double the points.
    if verdict == "foreign":
        return Decision(verdict, "migrate")
    # Other metrics may be selected now.
    return Decision(verdict, "migrate", "", twin, from_start=True)
