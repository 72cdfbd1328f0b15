"""What was lost in a backfill, by kind, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from mlflow_wandb_plugin.backfill.outcome import Outcome

REASONS: Mapping[str, str] = {
    "file_missing": "a file that the log names is gone",
    "file_not_read": "a linked file may not belong to the run: see --follow-links",
    "artifact_file_missing": "a file of an artifact is gone",
    "artifact_file_not_read": "a file of an artifact may not belong to the run: see --follow-links",
    "damaged_bytes": "a part of a log is torn or corrupt",
    "document_refused": "the target's store of files refused a document",
    "file_refused": "the target's store of files refused a file",
    "metric_refused": "MLflow refused a point",
    "param_refused": "MLflow refused a param",
    "runtag_refused": "MLflow refused a tag",
    "input_refused": "MLflow refused a dataset of the run",
    "document_missing": "a document that was to be written is gone",
    "media_missing": "a file that the log names is gone",
    "file": "a file is gone or cannot be read",
    "artifact": "W&B refused an artifact twice",
    "artifact_file": "a file of an artifact is gone or cannot be read",
    "used_artifact": "the target does not have an artifact that the run used",
    "sweep": "W&B does not take the sweep of a run that has ended",
}
SHOWN_REASONS = 20
"""Reasons of one run."""
ELSE = "it could not be carried"
WHERE = "; wandb/losses.jsonl among the run's artifacts in MLflow names each"


def losses_in_total(outcomes: Sequence[Outcome], in_mlflow: bool = True) -> list[str]:
    """Return a line for each kind of loss, with its number and reason, then the damaged places.

    Args:
        in_mlflow: whether MLflow is the target, where each run has a list.
    """
    counted: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    for outcome in outcomes:
        counted.update(outcome.losses)
        runs.update(outcome.losses.keys())
    lines = [
        f"{number:,} {kind} in {runs[kind]:,} runs: {REASONS.get(kind, ELSE)}"
        + (WHERE if in_mlflow else "")
        for kind, number in sorted(counted.items())
    ]
    return lines + [str(one) for outcome in outcomes for one in outcome.unreadable]


def reasons_by_run(
    outcomes: Sequence[Outcome], ask: Callable[[str], Sequence[str]]
) -> dict[str, list[str]]:
    """Return what the target keeps of each run's losses, by the run's id there.

    Args:
        ask: see `Target.loss_reasons`.
    """
    ids = [one.mlflow_run_id for one in outcomes if one.losses and one.mlflow_run_id]
    found = {run_id: list(ask(run_id)) for run_id in ids}
    return {run_id: _shortened(lines) for run_id, lines in found.items() if lines}


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN_REASONS
    return lines if more <= 0 else [*lines[:SHOWN_REASONS], f"and {more:,} more"]
