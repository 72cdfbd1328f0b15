"""Outcomes and plans as tables and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.backfill.estimate import about, estimated_s
from mlflow_wandb_plugin.backfill.heading import Heading, day
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.plan import PlannedRun
from mlflow_wandb_plugin.core.identity import Verdict
from mlflow_wandb_plugin.core.messages import cell, printable
from mlflow_wandb_plugin.core.protocols import WriteMethod

if TYPE_CHECKING:
    from rich.table import Table

VERDICTS: Mapping[Verdict, str] = {
    "new": "the target does not have it; it is migrated",
    "dual-written": "the package wrote it while it trained, and it is complete; it is skipped",
    "existing": "backfilled before, and complete; it is skipped",
    "partial": "there, with holes; what is missing is added",
    "foreign": "another tool migrated it; it is skipped",
}
"""What each verdict on a run means, and what is done by default."""
DAMAGED = "damaged_"
"""The beginning of the losses that count bytes or rows of a range, and no values."""


def as_json(
    outcomes: Sequence[Outcome], heading: Heading | None = None, not_carried: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the report as JSON-compatible values."""
    return {
        **(Heading() if heading is None else heading).as_json(),
        **({"not_carried": list(not_carried)} if not_carried else {}),
        "counts": counts(outcomes),
        "lost": lost(outcomes),
        "runs": [_outcome_as_json(outcome) for outcome in outcomes],
    }


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    return {
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


def written_by(method: WriteMethod) -> str:
    """Return the line that says how points are written."""
    return f"write path: {method}"


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return the number of runs that were migrated, repaired, skipped and failed."""
    counted = Counter(outcome.action for outcome in outcomes)
    return {action: counted[action] for action in ("migrated", "repaired", "skipped", "failed")}


def lost(outcomes: Iterable[Outcome]) -> int:
    """Return how many values, files and ranges of logs were lost on the way."""
    return sum(map(lost_of, outcomes))


def lost_of(outcome: Outcome) -> int:
    """Return what was lost of one run. A damaged range counts once, whatever its length."""
    values = sum(n for kind, n in outcome.losses.items() if not kind.startswith(DAMAGED))
    return values + sum(unreadable.lost for unreadable in outcome.unreadable)


def as_table(outcomes: Sequence[Outcome]) -> Table:
    """Return a table with a row per run."""
    from rich.style import Style
    from rich.table import Table

    table = Table(title="Backfill")
    for column in ("run", "id", "state", "what", "points"):
        table.add_column(column, justify="right" if column == "points" else "left", overflow="fold")
    for outcome in outcomes:
        what = cell(_what(outcome))
        if where := _where(outcome):
            # Where a terminal can, the parts of a folded link open all of it.
            link = Style(link=printable(outcome.link)) if outcome.link else ""
            what.append(f"\n{printable(where)}", link)
        table.add_row(
            cell(outcome.run.name or outcome.run.run_id),
            cell(outcome.run.run_id),
            cell(outcome.run.state),
            what,
            f"{outcome.points:,}" if outcome.points else "",
        )
    return table


def one_line(outcomes: Sequence[Outcome]) -> str:
    """Summarise outcomes: "1 migrated, 1 skipped as dual-written, 0 lost"."""
    counted = counts(outcomes)
    verdicts = Counter(o.verdict for o in outcomes if o.action == "skipped")
    skipped = ", ".join(f"{number} skipped as {name}" for name, number in sorted(verdicts.items()))
    parts = [f"{counted['migrated']:,} migrated"]
    if counted["repaired"]:
        parts.append(f"{counted['repaired']:,} repaired")
    parts.append(skipped or "0 skipped")
    if counted["failed"]:
        parts.append(f"{counted['failed']:,} failed")
    return ", ".join([*parts, f"{lost(outcomes):,} lost"])


def in_order(outcomes: Sequence[Outcome], newest_first: bool = False) -> list[Outcome]:
    """Return outcomes in the order of the plan: by the start of the run."""

    def start(outcome: Outcome) -> tuple[int, str]:
        return outcome.run.started_ms or 0, outcome.run.run_id

    return sorted(outcomes, key=start, reverse=newest_first)


def legend(verdicts: Iterable[Verdict]) -> list[str]:
    """Return a line for each verdict that occurs."""
    there = set(verdicts)
    return [f"{name}: {meaning}" for name, meaning in VERDICTS.items() if name in there]


def _where(outcome: Outcome) -> str:
    """The run's page where there is one, else its experiment and id."""
    if outcome.link:
        return outcome.link
    return " / ".join(part for part in (outcome.experiment, outcome.mlflow_run_id) if part)


def _what(outcome: Outcome) -> str:
    text = outcome.action + (f": {outcome.reason}" if outcome.reason else "")
    if outcome.losses:
        text += f"; lost: {losses_in_words(outcome)}"
    if outcome.unreadable:
        text += "; " + "; ".join(str(unreadable) for unreadable in outcome.unreadable)
    return text


def losses_in_words(outcome: Outcome) -> str:
    """Return what was lost of a run, by kind."""
    return ", ".join(f"{number:,} {kind}" for kind, number in sorted(outcome.losses.items()))


def plan_as_json(planned: Sequence[PlannedRun], heading: Heading | None = None) -> dict[str, Any]:
    """Return a plan as JSON-compatible values, with its totals."""
    heading = heading or Heading()
    return {
        **heading.as_json(),
        "totals": totals(planned) | {"estimated_s": round(_seconds(planned, heading), 1)},
        "runs": [
            {
                "run_id": item.run.run_id,
                "path": item.run.path,
                "name": item.run.name,
                "state": item.run.state,
                "started": day(item.run.started_ms),
                "ended": day(item.run.ended_ms),
                "verdict": item.decision.verdict,
                "action": item.decision.action,
                "reason": item.decision.reason,
                "experiment": item.experiment,
                "points": item.size.points,
                "files": item.size.files,
                "bytes": item.size.file_bytes,
                "requests": item.size.requests,
            }
            for item in planned
        ],
    }


def plan_as_table(planned: Sequence[PlannedRun]) -> Table:
    """Return a table with a row per run and a last row with the totals; 80 columns are enough."""
    from rich.table import Table

    total = totals(planned)
    table = Table(title="Plan: nothing has been written", show_footer=True, show_lines=True)
    table.add_column("run", overflow="fold", footer=f"{total['runs']:,} runs")
    table.add_column("state, start")
    table.add_column("verdict, action, experiment", footer=f"{total['to_migrate']:,} to migrate")
    table.add_column("size", justify="right", footer=_sizes(total))
    for item in planned:
        size = item.size
        numbers = (size.points, size.files, size.file_bytes, size.requests)
        table.add_row(
            cell("\n".join(dict.fromkeys((item.run.name or item.run.run_id, item.run.run_id)))),
            cell(f"{item.run.state}\n{day(item.run.started_ms)}".rstrip()),
            cell(f"{item.decision.verdict}, {planned_action(item)}\n{item.experiment}".rstrip()),
            _sizes(dict(zip(_SIZES, numbers, strict=True))),
        )
    return table


_SIZES = {"points": "points", "files": "files", "bytes": "bytes", "requests": "API calls"}


def _sizes(numbers: Mapping[str, int]) -> str:
    """Return what is to be carried, a line for each kind of which there is something."""
    return "\n".join(f"{numbers[key]:,} {noun}" for key, noun in _SIZES.items() if numbers[key])


def planned_action(item: PlannedRun) -> str:
    """Return what is to be done with a run, and why."""
    decision = item.decision
    return f"{decision.action}: {decision.reason}" if decision.reason else decision.action


def plan_in_one_line(planned: Sequence[PlannedRun], heading: Heading) -> str:
    """Summarise a plan: "2 of 3 runs to migrate, about 4 minutes"."""
    total = totals(planned)
    time = about(_seconds(planned, heading)) if total["to_migrate"] else "nothing to do"
    return f"{total['to_migrate']:,} of {total['runs']:,} runs to migrate: {time}"


def _seconds(planned: Sequence[PlannedRun], heading: Heading) -> float:
    return estimated_s(planned, "" if heading.method is None else heading.method.path)


def totals(planned: Sequence[PlannedRun]) -> dict[str, int]:
    """Return the sums of a plan."""
    return {
        "runs": len(planned),
        "to_migrate": sum(item.decision.action == "migrate" for item in planned),
        "points": sum(item.size.points for item in planned),
        "files": sum(item.size.files for item in planned),
        "bytes": sum(item.size.file_bytes for item in planned),
        "requests": sum(item.size.requests for item in planned),
    }
