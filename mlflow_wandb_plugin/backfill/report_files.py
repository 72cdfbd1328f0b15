"""Write reports and plans into files: a page, JSON, a line of JSON per run, or text."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlflow_wandb_plugin.backfill import html, report
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.heading import Heading
from mlflow_wandb_plugin.backfill.losses import reasons_by_run
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.plan import PlannedRun
from mlflow_wandb_plugin.core.atomic_files import write_atomically
from mlflow_wandb_plugin.core.protocols import Target

SUFFIXES = (".html", ".json", ".jsonl", ".txt")


def write_report(
    path: Path,
    outcomes: Sequence[Outcome],
    curves: Curves,
    target: Target,
    heading: Heading,
    not_carried: Sequence[str] = (),
) -> None:
    """Write a report of what was done.

    Args:
        target: tells, for a page, the curves that it has and why something was lost.
        not_carried: what the source has beside its runs, one line each.
    """
    if path.suffix == ".html":
        reasons = reasons_by_run(outcomes, target.loss_reasons)
        text = html.page(outcomes, curves, target.curve, heading, not_carried, reasons)
    elif path.suffix == ".json":
        text = json.dumps(report.as_json(outcomes, heading, not_carried), indent=1)
    elif path.suffix == ".jsonl":
        text = _lines(report.as_json(outcomes))
    else:
        lines = (*_written_by(heading), report.one_line(outcomes))
        text = _text(report.as_table(outcomes)) + "".join(f"{line}\n" for line in lines)
    write_atomically(path, text)


def write_plan(path: Path, planned: Sequence[PlannedRun], heading: Heading) -> None:
    """Write a plan of what would be done."""
    if path.suffix == ".html":
        text = html.plan_page(planned, heading)
    elif path.suffix == ".json":
        text = json.dumps(report.plan_as_json(planned, heading), indent=1)
    elif path.suffix == ".jsonl":
        text = _lines(report.plan_as_json(planned))
    else:
        lines = (*_written_by(heading), report.plan_in_one_line(planned, heading))
        text = _text(report.plan_as_table(planned)) + "".join(f"{line}\n" for line in lines)
    write_atomically(path, text)


def _written_by(heading: Heading) -> list[str]:
    return [] if heading.method is None else [report.written_by(heading.method)]


def _lines(document: Mapping[str, Any]) -> str:
    """Return the runs of a report or plan, a line each."""
    return "".join(f"{json.dumps(run)}\n" for run in document["runs"])


def _text(table: Table) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(table)
    return console.export_text()
