"""The report as one HTML page: verdicts, losses, and small curves of both systems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from mlflow_wandb_plugin.backfill import report
from mlflow_wandb_plugin.backfill.curves import Curve, Curves
from mlflow_wandb_plugin.backfill.outcome import Outcome
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
    """Return the page. Text from W&B is escaped: it is never markup."""
    written = f"<p>{escape(report.written_by(method))}</p>" if method is not None else ""
    rows = "\n".join(_row(outcome, curves, read_back) for outcome in outcomes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Backfill</title><style>{_STYLE}</style></head><body><h1>Backfill</h1>"
        f"<p>{escape(report.one_line(outcomes))}. Curves: W&amp;B wide and yellow, "
        f"MLflow thin and blue on top.</p>{written}"
        "<table><tr><th>run</th><th>verdict</th><th>what</th><th>points</th><th>lost</th>"
        f"<th>curves</th></tr>\n{rows}\n</table></body></html>\n"
    )


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
