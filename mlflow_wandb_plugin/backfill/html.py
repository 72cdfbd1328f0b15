"""The report and the plan as one HTML page: no network, no markup from runs.

Everything that comes from a run is escaped, and the page's policy allows its own script alone. The
script sorts, filters and draws; without it the table is complete.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

from mlflow_wandb_plugin.backfill import report
from mlflow_wandb_plugin.backfill.curve_data import CurveData, ReadBack, curves_of_runs
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.heading import Heading, day
from mlflow_wandb_plugin.backfill.losses import losses_in_total
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.plan import PlannedRun

_NUMBER_COLUMNS = frozenset(("points", "lost", "files", "bytes", "API calls"))
_UNSORTED = frozenset(("curves",))


@dataclass(frozen=True, slots=True)
class _Cell:
    """A cell of the table. ``html`` is escaped already; ``sort`` is what it is sorted by."""

    html: str
    sort: str = ""
    css: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    cells: Sequence[_Cell]
    filters: Mapping[str, str]
    css: str = ""


@dataclass(frozen=True, slots=True)
class _Page:
    title: str
    heading: Heading
    facts: Mapping[str, str]
    totals: Mapping[str, int]
    columns: Sequence[str]
    rows: Sequence[_Row]
    legend: Sequence[str]
    sections: Mapping[str, Sequence[str]] = field(default_factory=dict)
    curves: CurveData = field(default_factory=dict)


def page(
    outcomes: Sequence[Outcome],
    curves: Curves,
    read_back: ReadBack,
    heading: Heading | None = None,
    not_carried: Sequence[str] = (),
    reasons: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return the page of a report. Text from W&B is escaped: it is never markup.

    Args:
        not_carried: what the source has beside its runs, one line each.
        reasons: why something was lost, by the run's id in the target.
    """
    heading = heading or Heading()
    drawn = curves_of_runs(outcomes, curves, read_back)
    columns = ("run", "state", "started", "verdict", "what", "points", "lost", "target", "curves")
    return _rendered(
        _Page(
            "Backfill",
            heading,
            {"summary": report.one_line(outcomes)},
            report.counts(outcomes) | {"lost": report.lost(outcomes)},
            columns,
            [
                _row(number, outcome, drawn, (reasons or {}).get(outcome.mlflow_run_id, ()))
                for number, outcome in enumerate(outcomes)
            ],
            report.legend(outcome.verdict for outcome in outcomes),
            {
                "What was lost, and why": losses_in_total(outcomes, heading.homes[1] == "MLflow"),
                "Not carried: beside the runs": not_carried,
            },
            drawn,
        )
    )


def plan_page(planned: Sequence[PlannedRun], heading: Heading | None = None) -> str:
    """Return the page of a plan."""
    heading = heading or Heading()
    columns = (
        "run", "state", "started", "verdict", "action", "into",
        "points", "files", "bytes", "API calls",
    )  # fmt: skip
    summary = f"{report.plan_in_one_line(planned, heading)}; nothing has been written"
    return _rendered(
        _Page(
            "Plan",
            heading,
            {"summary": summary},
            report.totals(planned),
            columns,
            [_planned_row(item) for item in planned],
            report.legend(item.decision.verdict for item in planned),
        )
    )


def _row(number: int, outcome: Outcome, drawn: CurveData, reasons: Sequence[str]) -> _Row:
    run = outcome.run
    there = drawn.get(str(number), ())
    figures = f'<details data-run="{number}"><summary>{len(there)} curves</summary></details>'
    cells = (
        _Cell(_named(outcome.run.name or run.run_id, run.path, run.url), run.name or run.run_id),
        _Cell(escape(run.state)),
        _date(run.started_ms),
        _Cell(escape(outcome.verdict)),
        _Cell(escape(outcome.action + (f": {outcome.reason}" if outcome.reason else ""))),
        _number(outcome.points),
        _lost(outcome, reasons),
        _Cell(_in_target(outcome), outcome.experiment),
        _Cell(figures if there else ""),
    )
    filters = {"verdict": outcome.verdict, "action": outcome.action, "state": run.state}
    return _Row(cells, filters, "failed" if outcome.action == "failed" else "")


def _planned_row(item: PlannedRun) -> _Row:
    run, decision, size = item.run, item.decision, item.size
    cells = (
        _Cell(_named(run.name or run.run_id, run.path, run.url), run.name or run.run_id),
        _Cell(escape(run.state)),
        _date(run.started_ms),
        _Cell(escape(decision.verdict)),
        _Cell(escape(report.planned_action(item))),
        _Cell(escape(item.experiment)),
        *map(_number, (size.points, size.files, size.file_bytes, size.requests)),
    )
    filters = {"verdict": decision.verdict, "action": decision.action, "state": run.state}
    return _Row(cells, filters)


def _date(at_ms: int | None) -> _Cell:
    return _Cell(day(at_ms), str(at_ms or 0), "date")


def _number(number: int) -> _Cell:
    return _Cell(f"{number:,}", str(number), "number")


def _named(name: str, path: str, url: str) -> str:
    link = _link(url, "W&B")
    return f"{escape(name)}<br><small>{escape(path)}{f' {link}' if link else ''}</small>"


def _in_target(outcome: Outcome) -> str:
    run_id = outcome.mlflow_run_id
    where = _link(outcome.link, run_id) or escape(run_id)
    return f"{escape(outcome.experiment)}<br><small>{where}</small>"


def _link(url: str, text: str) -> str:
    """Return a link to a page; empty for anything else, such as a script."""
    if not url.startswith(("http://", "https://")):
        return ""
    quoted = escape(url, quote=True)
    return f'<a href="{quoted}" title="{quoted}" rel="noopener noreferrer">{escape(text)}</a>'


def _lost(outcome: Outcome, reasons: Sequence[str]) -> _Cell:
    lines = [report.losses_in_words(outcome)] if outcome.losses else []
    lines += map(str, outcome.unreadable)
    css = "lost" if lines else ""
    text = "<br>".join(map(escape, lines))
    if reasons:
        why = "<br>".join(map(escape, reasons))
        text += f"<details><summary>why</summary><small>{why}</small></details>"
    return _Cell(text, str(report.lost_of(outcome)), css)


def _rendered(content: _Page) -> str:
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{escape(content.title)}</title><style>{style}</style></head><body>",
            f"<h1>{escape(content.title)}</h1>",
            _facts(content),
            _totals(content.totals),
            _form(content.rows),
            _table(content.columns, content.rows),
            _list("Verdicts", content.legend),
            *(_list(title, lines) for title, lines in content.sections.items()),
            _data("homes", dict(zip(("source", "target"), content.heading.homes, strict=True))),
            _data("curves", content.curves),
            f"<script>{script}</script></body></html>\n",
        )
    )


def _asset(name: str) -> str:
    return (files("mlflow_wandb_plugin.backfill") / "page" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(name: str, document: Any) -> str:
    """Return a block of data that no browser executes, and that no text in it can end."""
    text = json.dumps(document, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _facts(content: _Page) -> str:
    heading = content.heading
    facts = {
        "source": ", ".join(heading.sources),
        "target": heading.target,
        "date": heading.date,
        "versions": ", ".join(f"{name} {number}" for name, number in heading.versions.items()),
        "points": "" if heading.method is None else report.written_by(heading.method),
        "to see it": heading.viewer,
        **content.facts,
    }
    pairs = (
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text
    )
    return f"<dl>{''.join(pairs)}</dl>"


def _totals(totals: Mapping[str, int]) -> str:
    boxes = (
        f"<div><b>{n:,}</b>{escape(name.replace('_', ' '))}</div>" for name, n in totals.items()
    )
    return f'<div class="totals">{"".join(boxes)}</div>'


def _form(rows: Sequence[_Row]) -> str:
    selects = "".join(
        _select(name, sorted({row.filters[name] for row in rows}))
        for name in ("verdict", "action", "state")
    )
    return (
        '<form hidden><input type="search" name="words" placeholder="Filter by words" '
        f'aria-label="Filter by words">{selects}<span id="shown" class="faint"></span></form>'
    )


def _select(name: str, values: Iterable[str]) -> str:
    options = "".join(f"<option>{escape(value)}</option>" for value in values)
    choices = f'<option value="">all</option>{options}'
    return f'<label>{name} <select name="{name}">{choices}</select></label>'


def _table(columns: Sequence[str], rows: Sequence[_Row]) -> str:
    heads = "".join(map(_head, columns))
    lines = "\n".join(map(_line, rows))
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{lines}\n'
        "</tbody></table></div>"
    )


def _head(column: str) -> str:
    if column in _UNSORTED:
        return f"<th>{escape(column)}</th>"
    kind = ' data-kind="number"' if column in _NUMBER_COLUMNS or column == "started" else ""
    return f'<th{kind}><button type="button">{escape(column)}</button></th>'


def _line(row: _Row) -> str:
    data = "".join(f' data-{name}="{escape(text)}"' for name, text in row.filters.items())
    css = f' class="{row.css}"' if row.css else ""
    return f"<tr{data}{css}>{''.join(map(_td, row.cells))}</tr>"


def _td(cell: _Cell) -> str:
    sort = f' data-sort="{escape(cell.sort)}"' if cell.sort else ""
    css = f' class="{cell.css}"' if cell.css else ""
    return f"<td{sort}{css}>{cell.html}</td>"


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{escape(title)}</h2><ul>{items}</ul>"
