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
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.plan import PlannedRun
from mlflow_wandb_plugin.core.atomic_files import write_atomically
from mlflow_wandb_plugin.core.protocols import WriteMethod

SUFFIXES = (".html", ".json", ".jsonl", ".txt")


def write_report(
    path: Path,
    outcomes: Sequence[Outcome],
    curves: Curves,
    read_back: html.ReadBack,
    method: WriteMethod,
) -> None:
    """Write a report of what was done, by ``method``."""
    if path.suffix == ".html":
        text = html.page(outcomes, curves, read_back, method)
    elif path.suffix == ".json":
        text = json.dumps(report.as_json(outcomes, method), indent=1)
    elif path.suffix == ".jsonl":
        text = _lines(report.as_json(outcomes))
    else:
        lines = (report.one_line(outcomes), report.written_by(method))
        text = _text(report.as_table(outcomes)) + "".join(f"{line}\n" for line in lines)
    write_atomically(path, text)


def write_plan(path: Path, planned: Sequence[PlannedRun], method: WriteMethod) -> None:
    """Write a plan of what would be done, by ``method``."""
    if path.suffix == ".html":
        text = html.plan_page(planned, method)
    elif path.suffix == ".json":
        text = json.dumps(report.plan_as_json(planned, method), indent=1)
    elif path.suffix == ".jsonl":
        text = _lines(report.plan_as_json(planned))
    else:
        text = f"{_text(report.plan_as_table(planned))}{report.written_by(method)}\n"
    write_atomically(path, text)


def _lines(document: Mapping[str, Any]) -> str:
    """Return the runs of a report or plan, a line each."""
    return "".join(f"{json.dumps(run)}\n" for run in document["runs"])


def _text(table: Table) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(table)
    return console.export_text()
