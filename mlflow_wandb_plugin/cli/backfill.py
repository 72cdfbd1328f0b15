"""``mlflow-wandb backfill``."""

from __future__ import annotations

import json
import sys

import click

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill import report
from mlflow_wandb_plugin.backfill.engine import Listener, Outcome
from mlflow_wandb_plugin.backfill.engine import backfill as run_backfill
from mlflow_wandb_plugin.model import Selection


@click.command()
@click.argument("source")
@click.option("--to", default="", metavar="URI", help="MLflow tracking URI. Default: MLflow's own.")
@click.option(
    "--experiment", default="{project}", show_default=True, help="Name of the MLflow experiment."
)
@click.option("--run", "runs", multiple=True, metavar="ID", help="Only this run (id or name).")
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="How many runs are carried at once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def backfill(
    source: str, to: str, experiment: str, runs: tuple[str, ...], workers: int, as_json: bool
) -> None:
    """Carry W&B runs from SOURCE into MLflow.

    SOURCE is a wandb folder, a run folder or a .wandb file. Runs that MLflow has complete,
    dual-written or migrated before, are skipped; runs with holes are filled. Run it again
    whenever you like.

    Exit code: 0 all well, 1 some runs failed, 2 it could not start.
    """
    opened = plugins.open_source(source), plugins.open_target(to, experiment)
    with ProgressBar() as bar:
        outcomes = list(run_backfill(*opened, Selection(runs), workers, bar))
    if as_json:
        click.echo(json.dumps(report.as_json(outcomes), indent=1))
    else:
        from rich.console import Console

        console = Console()
        console.print(report.as_table(outcomes))
        console.print(report.one_line(outcomes), highlight=False)
    sys.exit(1 if any(outcome.action == "failed" for outcome in outcomes) else 0)


class ProgressBar(Listener):
    """Runs and points on stderr; nothing where that is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[runs]} runs"),
            TextColumn("{task.completed:,.0f} points"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("backfill", total=None, runs=0, rate="")
        self._runs = 0

    def points(self, count: int) -> None:
        task = self._progress.tasks[0]
        rate = f"{task.speed:,.0f} points/s" if task.speed else ""
        self._progress.update(self._task, advance=count, rate=rate)

    def run_done(self, outcome: Outcome) -> None:
        self._runs += 1
        self._progress.update(self._task, runs=self._runs)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
