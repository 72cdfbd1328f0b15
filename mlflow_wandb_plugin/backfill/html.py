"""The report as one HTML page: verdicts, losses, and small curves of both systems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from mlflow_wandb_plugin.backfill import report
from mlflow_wandb_plugin.backfill.curves import Curve, Curves
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.plan import PlannedRun
from mlflow_wandb_plugin.core.model import Key
from mlflow_wandb_plugin.core.protocols import WriteMethod

WIDTH, HEIGHT = 220, 60

ReadBack = Callable[[str, Key], Curve]
"""Reads a curve of an MLflow run by its id and the W&B key; empty if it cannot."""

_STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:2em;color:#222}
table{border-collapse:collapse}td,th{padding:.4em .8em;border-bottom:1px solid #ddd;
text-align:left;vertical-align:top}.failed{color:#b00}figure{display:inline-block;margin:0 1em 0 0}
figcaption{font-size:11px;color:#666}svg{background:#fafafa}
.wandb{fill:none;stroke:#f5b400;stroke-width:3}.mlflow{fill:none;stroke:#0969da;stroke-width:1}
"""


def page(
    outcomes: Sequence[Outcome],
    curves: Curves,
    read_back: ReadBack,
    method: WriteMethod | None = None,
) -> str:
    """Return the page of a report. Text from W&B is escaped: it is never markup."""
    rows = "\n".join(_row(outcome, curves, read_back) for outcome in outcomes)
    columns = ("run", "verdict", "what", "points", "lost", "in MLflow", "curves")
    return _page(
        "Backfill",
        f"{report.one_line(outcomes)}. Curves: W&B wide and yellow, MLflow thin and blue on top.",
        columns,
        rows,
        method,
    )


def plan_page(planned: Sequence[PlannedRun], method: WriteMethod | None = None) -> str:
    """Return the page of a plan."""
    rows = "\n".join(_planned_row(item) for item in planned)
    columns = ("run", "verdict", "action", "points", "bytes", "API calls")
    summary = f"{len(planned)} runs; nothing has been written."
    return _page("Plan", summary, columns, rows, method)


def _page(
    title: str, summary: str, columns: Sequence[str], rows: str, method: WriteMethod | None
) -> str:
    written = f"<p>{escape(report.written_by(method))}</p>" if method is not None else ""
    heads = "".join(f"<th>{escape(column)}</th>" for column in columns)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p>{escape(summary)}</p>{written}<table><tr>{heads}</tr>\n{rows}\n</table></body></html>\n"
    )


def _link(outcome: Outcome) -> str:
    name, run_id = escape(outcome.experiment), escape(outcome.mlflow_run_id)
    if not outcome.link.startswith(("http://", "https://")):
        return f"{name}<br><small>{run_id}</small>"
    return f'{name}<br><a href="{escape(outcome.link, quote=True)}">{run_id}</a>'


def _planned_row(item: PlannedRun) -> str:
    run, decision, size = item.run, item.decision, item.size
    cells = (
        f"{escape(run.name or run.run_id)}<br><small>{escape(run.path)}</small>",
        escape(decision.verdict),
        escape(decision.action + (f": {decision.reason}" if decision.reason else "")),
        *(f"{number:,}" for number in (size.points, size.file_bytes, size.requests)),
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _row(outcome: Outcome, curves: Curves, read_back: ReadBack) -> str:
    lost = ", ".join(f"{number} {kind}" for kind, number in sorted(outcome.losses.items()))
    unreadable = "<br>".join(escape(str(unreadable)) for unreadable in outcome.unreadable)
    figures = "".join(
        _figure(key, curve, read_back(outcome.mlflow_run_id, key))
        for key, curve in curves.of(outcome.run.run_id).items()
        if outcome.mlflow_run_id
    )
    cells = (
        f"{escape(outcome.run.name or outcome.run.run_id)}<br><small>{escape(outcome.run.path)}"
        "</small>",
        escape(outcome.verdict),
        escape(outcome.action + (f": {outcome.reason}" if outcome.reason else "")),
        f"{outcome.points:,}",
        escape(lost) + ("<br>" if lost and unreadable else "") + unreadable,
        _link(outcome),
        figures,
    )
    return (
        f'<tr class="{escape(outcome.action)}">'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _figure(key: Key, wandb: Curve, mlflow: Curve) -> str:
    finite = [p for p in (*wandb, *mlflow) if math.isfinite(p[1])]
    if not finite:
        return ""
    steps, values = [p[0] for p in finite], [p[1] for p in finite]
    box = (min(steps), max(steps), min(values), max(values))
    lines = "".join(
        f'<polyline class="{name}" points="{_points(curve, box)}"/>'
        for name, curve in (("wandb", wandb), ("mlflow", mlflow))
    )
    return (
        f'<figure><svg width="{WIDTH}" height="{HEIGHT}">{lines}</svg>'
        f"<figcaption>{escape('.'.join(key))}</figcaption></figure>"
    )


def _points(curve: Curve, box: tuple[int, int, float, float]) -> str:
    left, right, low, high = box
    wide, tall = (right - left) or 1, (high - low) or 1.0
    return " ".join(
        f"{(step - left) / wide * WIDTH:.1f},{HEIGHT - (value - low) / tall * HEIGHT:.1f}"
        for step, value in curve
        if math.isfinite(value)
    )
