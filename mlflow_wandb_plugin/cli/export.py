"""``mlflow-wandb export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.cli.next_commands import examples
from mlflow_wandb_plugin.cli.progress import ProgressBar
from mlflow_wandb_plugin.cli.selecting import selects_runs
from mlflow_wandb_plugin.cli.terminal import echo, working
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.output_file import check_output_file
from mlflow_wandb_plugin.core.protocols import SourceOptions
from mlflow_wandb_plugin.export.files import SUFFIXES
from mlflow_wandb_plugin.export.tables import ExportOptions
from mlflow_wandb_plugin.export.tables import export as export_table


@click.command(
    epilog=examples(
        "mlflow-wandb export ./wandb --to runs.csv --order -summary.loss",
        "mlflow-wandb export wandb://my-team/mnist --to history.parquet --history",
    )
)
@selects_runs
@click.option("--to", required=True, type=click.Path(path_type=Path),
              help="The file: .csv, .parquet or .jsonl.")  # fmt: skip
@click.option("--history", type=click.Choice(("wide", "long")), is_flag=False, flag_value="wide",
              help="All rows of the runs: a row per step (wide), or per value (long).")  # fmt: skip
@click.option("--order", default="created", show_default=True, metavar="KEY",
              help="created, config.KEY or summary.KEY; with - before it in reverse.")  # fmt: skip
@click.option("--columns", default="", metavar="A,B,…", help="Only these columns; * is allowed.")
def export(
    source: str, to: Path, selection: Selection, history: Literal["wide", "long"] | None,
    order: str, columns: str, **options: Any,
) -> None:  # fmt: skip
    """Write the runs of SOURCE into a table, with a row per run.

    SOURCE is as for `mlflow-wandb backfill`. A row has the run's name, state and times, its config
    and its summary.

    Exit code: 0 all runs were exported, 1 some could not be read, 2 it could not start.
    """
    check_output_file("--to", to, SUFFIXES)
    wanted = tuple(name.strip() for name in columns.split(",") if name.strip())
    chosen = ExportOptions(history or "no", order, wanted)
    with working("opening the source"):
        opened = plugins.open_source(source, SourceOptions(artifacts=False, **options))
    with ProgressBar() as bar:
        bar.expect_runs(opened.count(selection))
        done = export_table(opened, to, selection, chosen, bar.run_verified)
    for line in done.unreadable:
        echo(f"not read: {line}", err=True)
    echo(f"{to}: {done.runs:,} runs, {done.rows:,} rows")
    sys.exit(1 if done.unreadable else 0)
