"""Outcomes and plans as tables and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.plan import PlannedRun
from mlflow_wandb_plugin.core.protocols import WriteMethod

if TYPE_CHECKING:
    from rich.table import Table


def as_json(
    outcomes: Sequence[Outcome],
    method: WriteMethod | None = None,
    not_carried: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the report as JSON-compatible values."""
    return {
        **_method(method),
        **({"not_carried": list(not_carried)} if not_carried else {}),
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
                "experiment": outcome.experiment,
                "link": outcome.link,
                "points": outcome.points,
                "losses": dict(outcome.losses),
                "damage": [str(unreadable) for unreadable in outcome.unreadable],
            }
            for outcome in outcomes
        ],
    }


def _method(method: WriteMethod | None) -> dict[str, Any]:
    return {} if method is None else {"write_path": asdict(method)}


def written_by(method: WriteMethod) -> str:
    """Return the line that says how points are written."""
    return f"write path: {method}"


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return the number of runs that were migrated, repaired, skipped and failed."""
    counted = Counter(outcome.action for outcome in outcomes)
    return {action: counted[action] for action in ("migrated", "repaired", "skipped", "failed")}


def as_table(outcomes: Sequence[Outcome]) -> Table:
    """Return a table with a row per run."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Backfill")
    for column in ("run", "id", "state", "what", "points"):
        table.add_column(column, justify="right" if column == "points" else "left", overflow="fold")
    for outcome in outcomes:
        table.add_row(
            escape(outcome.run.name or outcome.run.run_id),
            escape(outcome.run.run_id),
            outcome.run.state,
            escape(f"{_what(outcome)}\n{_where(outcome)}".strip()),
            f"{outcome.points:,}" if outcome.points else "",
        )
    return table


def one_line(outcomes: Sequence[Outcome]) -> str:
    """Summarise outcomes: "1 migrated, 1 skipped as dual-written"."""
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


def in_order(outcomes: Sequence[Outcome], newest_first: bool = False) -> list[Outcome]:
    """Return outcomes in the order of the plan: by the start of the run."""

    def start(outcome: Outcome) -> tuple[int, str]:
        return outcome.run.started_ms or 0, outcome.run.run_id

    return sorted(outcomes, key=start, reverse=newest_first)


def _where(outcome: Outcome) -> str:
    """The run's page where there is one, else its experiment and id."""
    if outcome.link:
        return outcome.link
    return " / ".join(part for part in (outcome.experiment, outcome.mlflow_run_id) if part)


def _what(outcome: Outcome) -> str:
    text = outcome.action + (f": {outcome.reason}" if outcome.reason else "")
    if outcome.losses:
        lost = ", ".join(f"{number} {kind}" for kind, number in sorted(outcome.losses.items()))
        text += f"; lost: {lost}"
    if outcome.unreadable:
        text += "; " + "; ".join(str(unreadable) for unreadable in outcome.unreadable)
    return text


def plan_as_json(
    planned: Sequence[PlannedRun], method: WriteMethod | None = None
) -> dict[str, Any]:
    """Return a plan as JSON-compatible values, with its totals."""
    return {
        **_method(method),
        "totals": _totals(planned),
        "runs": [
            {
                "run_id": item.run.run_id,
                "path": item.run.path,
                "name": item.run.name,
                "state": item.run.state,
                "verdict": item.decision.verdict,
                "action": item.decision.action,
                "reason": item.decision.reason,
                "points": item.size.points,
                "bytes": item.size.file_bytes,
                "requests": item.size.requests,
            }
            for item in planned
        ],
    }


def plan_as_table(planned: Sequence[PlannedRun]) -> Table:
    """Return a table with a row per run and a last row with the totals."""
    from rich.markup import escape
    from rich.table import Table

    totals = _totals(planned)
    table = Table(title="Plan: nothing has been written", show_footer=True)
    table.add_column("run", footer=f"{totals['runs']} runs")
    table.add_column("id")
    table.add_column("verdict")
    table.add_column("action", footer=f"{totals['to_migrate']} to migrate")
    for name, key in (("points", "points"), ("bytes", "bytes"), ("API calls", "requests")):
        table.add_column(name, justify="right", footer=f"{totals[key]:,}")
    for item in planned:
        reason = item.decision.reason
        what = f"{item.decision.action}: {reason}" if reason else str(item.decision.action)
        table.add_row(
            escape(item.run.name or item.run.run_id),
            escape(item.run.run_id),
            item.decision.verdict,
            escape(what),
            *(f"{n:,}" for n in (item.size.points, item.size.file_bytes, item.size.requests)),
        )
    return table


def _totals(planned: Sequence[PlannedRun]) -> dict[str, int]:
    return {
        "runs": len(planned),
        "to_migrate": sum(item.decision.action == "migrate" for item in planned),
        "points": sum(item.size.points for item in planned),
        "bytes": sum(item.size.file_bytes for item in planned),
        "requests": sum(item.size.requests for item in planned),
    }
