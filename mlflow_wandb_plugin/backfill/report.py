"""Outcomes as a table for people and as JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.backfill.engine import Outcome

if TYPE_CHECKING:
    from rich.table import Table


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The whole report as JSON-compatible values."""
    return {
        "counts": counts(outcomes),
        "runs": [
            {
                "run_id": outcome.run.run_id,
                "path": outcome.run.path,
                "name": outcome.run.name,
                "state": outcome.run.state,
                "verdict": outcome.verdict,
                "action": outcome.action,
                "reason": outcome.reason,
                "mlflow_run_id": outcome.mlflow_run_id,
                "points": outcome.points,
                "losses": dict(outcome.losses),
                "damage": [str(damage) for damage in outcome.damage],
            }
            for outcome in outcomes
        ],
    }


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many runs were migrated, repaired, skipped and failed."""
    counted = Counter(outcome.action for outcome in outcomes)
    return {action: counted[action] for action in ("migrated", "repaired", "skipped", "failed")}


def as_table(outcomes: Sequence[Outcome]) -> Table:
    """A row a run."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Backfill")
    for column in ("run", "id", "state", "what", "points"):
        table.add_column(column, justify="right" if column == "points" else "left")
    for outcome in outcomes:
        table.add_row(
            escape(outcome.run.name or outcome.run.run_id),
            escape(outcome.run.run_id),
            outcome.run.state,
            escape(_what(outcome)),
            f"{outcome.points:,}" if outcome.points else "",
        )
    return table


def one_line(outcomes: Sequence[Outcome]) -> str:
    """ "1 migrated, 0 repaired, 1 skipped as dual-written, 0 failed"."""
    counted = counts(outcomes)
    verdicts = Counter(o.verdict for o in outcomes if o.action == "skipped")
    skipped = ", ".join(f"{number} skipped as {name}" for name, number in sorted(verdicts.items()))
    parts = [f"{counted['migrated']} migrated"]
    if counted["repaired"]:
        parts.append(f"{counted['repaired']} repaired")
    parts.append(skipped or "0 skipped")
    if counted["failed"]:
        parts.append(f"{counted['failed']} failed")
    return ", ".join(parts)


def _what(outcome: Outcome) -> str:
    text = outcome.action + (f": {outcome.reason}" if outcome.reason else "")
    if outcome.losses:
        lost = ", ".join(f"{number} {kind}" for kind, number in sorted(outcome.losses.items()))
        text += f"; lost: {lost}"
    if outcome.damage:
        text += "; " + "; ".join(str(damage) for damage in outcome.damage)
    return text
