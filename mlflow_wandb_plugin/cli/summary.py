"""``mlflow-wandb summary``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.carrier import check_selection
from mlflow_wandb_plugin.backfill.heading import day
from mlflow_wandb_plugin.cli.next_commands import examples
from mlflow_wandb_plugin.cli.progress import ProgressBar
from mlflow_wandb_plugin.cli.selecting import selects_runs
from mlflow_wandb_plugin.cli.terminal import console, current, echo, working
from mlflow_wandb_plugin.core.messages import cell
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import SourceOptions
from mlflow_wandb_plugin.export.overview import Overview, ProjectOverview, overview

if TYPE_CHECKING:
    from rich.table import Table

UNKNOWN = "–"


@click.command(
    epilog=examples(
        "mlflow-wandb summary ./wandb",
        "mlflow-wandb summary wandb://my-team --files",
        "mlflow-wandb summary archive:./runs --json",
    )
)
@selects_runs
@click.option("--files", "with_files", is_flag=True,
              help="Count files of servers, too: a request or more for each run.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def summary(
    source: str, selection: Selection, with_files: bool, as_json: bool, **options: Any
) -> None:
    """Show what SOURCE has: runs, states, rows, keys, files and dates of each project.

    SOURCE is as for `mlflow-wandb backfill`. Nothing is written, and no more is read than the
    figures need: of a W&B server the list of runs, of an archive its documents, of a wandb folder
    its logs. A dash stands for what is not counted.

    Exit code: 0 all was read, 1 something could not be read, 2 it could not start.
    """
    with working("opening the source"):
        opened = plugins.open_source(source, SourceOptions(artifacts=False, **options))
        check_selection(opened, selection)
        expected = opened.count(selection)
    with ProgressBar() as bar:
        bar.expect_runs(expected)
        found = overview(opened, selection, with_files, bar.run_verified)
    if as_json:
        echo(json.dumps(_document(found), indent=1))
    else:
        if not current().quiet:
            console().print(_table(found))
        for line in found.unread:
            echo(f"not read: {line}", err=True)
        echo(_one_line(found))
    sys.exit(1 if found.unread else 0)


def _document(found: Overview) -> dict[str, Any]:
    return {
        "projects": [project.as_json() for project in found.projects],
        "unread": found.unread,
    }


def _table(found: Overview) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("project", overflow="fold")
    for column in ("runs", "rows", "keys", "files", "bytes"):
        table.add_column(column, justify="right")
    for column in ("states", "from", "until"):
        table.add_column(column)
    for project in found.projects:
        table.add_row(cell(project.project or UNKNOWN), *_cells(project))
    return table


def _cells(project: ProjectOverview) -> list[str]:
    keys = None if project.keys is None else len(project.keys)
    numbers = (project.runs, project.rows, keys, project.files, project.file_bytes)
    states = ", ".join(f"{number:,} {state}" for state, number in sorted(project.states.items()))
    return [
        *(UNKNOWN if number is None else f"{number:,}" for number in numbers),
        states,
        day(project.first_ms) or UNKNOWN,
        day(project.last_ms) or UNKNOWN,
    ]


def _one_line(found: Overview) -> str:
    runs = sum(project.runs for project in found.projects)
    rows = [project.rows for project in found.projects if project.rows is not None]
    parts = [_counted(len(found.projects), "project"), _counted(runs, "run")]
    parts += [f"{sum(rows):,} rows"] if rows else []
    parts += [f"{len(found.unread):,} not read"] if found.unread else []
    return ", ".join(parts)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
