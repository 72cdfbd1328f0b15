"""Decide what a backfill does with a run that the target may already have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Twin, Verdict
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.protocols import Target

NARROWER = "migrated before with other metrics or without artifacts"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a run, and why. ``twin`` is its replica, to be continued or skipped."""

    verdict: Verdict
    action: Literal["migrate", "skip", "refuse"]
    reason: str = ""
    twin: Twin | None = None


def decide(run: RunInfo, target: Target, options: BackfillOptions) -> Decision:
    """Look for the replica of ``run`` and decide by ``options`` what to do. Writes nothing.

    Raises:
        TargetUnavailableError, TargetError: the target did not answer, or refused.
    """
    twin = target.find(run)
    verdict = identity.verdict(run, twin, options.selection)
    if twin is None:
        return Decision(verdict, "migrate", _unknown_marker(run, options))
    if twin.origin == "dual" and options.dual_written == "trust":
        return Decision("dual-written", "skip", "dual-written, according to its config", twin)
    if verdict == "dual-written":
        reason = (
            "created in MLflow" if twin.origin == identity.MIRROR else "dual-written and complete"
        )
        return Decision(verdict, "skip", reason, twin)
    if verdict in ("existing", "foreign"):
        return _existing(verdict, twin, options)
    narrower = twin.complete(run) and not twin.has(options.selection)
    return Decision(verdict, "migrate", NARROWER if narrower else "", twin)


def _unknown_marker(run: RunInfo, options: BackfillOptions) -> str:
    """Say that the run's config names an MLflow run which is not taken for its replica."""
    marker = run.config.get(identity.RUN_ID_CONFIG_KEY)
    if not marker or options.dual_written == "ignore":
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
    return Decision(verdict, "migrate", "", None if verdict == "foreign" else twin)
