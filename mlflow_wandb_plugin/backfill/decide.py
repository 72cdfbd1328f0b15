"""Decide what a backfill does with a run that the target may already have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Twin, Verdict
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.protocols import Target


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
    verdict = identity.verdict(run, twin)
    if twin is None:
        marker = run.config.get("mlflow_run_id")
        lost = f"the MLflow run that its config names does not exist ({marker})" if marker else ""
        return Decision(verdict, "migrate", lost if options.dual_written != "ignore" else "")
    if twin.origin == "dual" and options.dual_written == "trust":
        return Decision("dual-written", "skip", "dual-written, according to its config", twin)
    if verdict == "dual-written":
        reason = (
            "created in MLflow" if twin.origin == identity.MIRROR else "dual-written and complete"
        )
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
    # Another tool's points have other times: adding ours would double the points.
    return Decision(verdict, "migrate", "", None if verdict == "foreign" else twin)
