"""``mlflow-wandb verify``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from mlflow_wandb_plugin.backfill.execution import open_ends
from mlflow_wandb_plugin.backfill.options import BackfillOptions, Job
from mlflow_wandb_plugin.backfill.verify import Verified
from mlflow_wandb_plugin.backfill.verify import verify as compare
from mlflow_wandb_plugin.cli.progress import ProgressBar
from mlflow_wandb_plugin.cli.selecting import reads_source
from mlflow_wandb_plugin.core.model import Selection

SHOWN_DIFFERENCES = 5


@click.command()
@reads_source
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(
    source: str, to: str, experiment: str, selection: Selection, as_json: bool, **options: Any
) -> None:
    """Compare the runs of SOURCE with those in MLflow, value by value; write nothing.

    SOURCE is as for `mlflow-wandb backfill`. Compared are every point with its step and time,
    params, tags, name, status and end time, and files by their content.

    Exit code: 0 all equal, 1 something differs or is absent, 2 it could not start.
    """
    job = Job(source, to, experiment, selection, BackfillOptions(**options))
    opened_source, target = open_ends(job)
    with ProgressBar() as bar:
        results = list(compare(opened_source, target, selection, job.options, bar))
    if as_json:
        click.echo(json.dumps([_document(result) for result in results], indent=1))
    else:
        for result in results:
            _show(result)
    sys.exit(0 if all(result.result in ("equal", "foreign") for result in results) else 1)


def _document(result: Verified) -> dict[str, Any]:
    run = result.run
    document = {"run_id": run.run_id, "path": run.path, "name": run.name, **asdict(result)}
    del document["run"]
    return document


def _show(result: Verified) -> None:
    checked = ", ".join(f"{number:,} {kind}" for kind, number in sorted(result.checked.items()))
    details = result.reason or checked
    click.echo(f"{result.run.path}: {result.result} ({details})")
    for difference in result.differences[:SHOWN_DIFFERENCES]:
        click.echo(f"  {difference}")
    if result.count > SHOWN_DIFFERENCES:
        click.echo(f"  and {result.count - SHOWN_DIFFERENCES:,} more; --json lists the first 100")
