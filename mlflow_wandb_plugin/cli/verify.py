"""``mlflow-wandb verify``."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from mlflow_wandb_plugin.backfill.execution import open_ends
from mlflow_wandb_plugin.backfill.options import BackfillOptions, Job
from mlflow_wandb_plugin.backfill.verify import Verified
from mlflow_wandb_plugin.backfill.verify import verify as compare
from mlflow_wandb_plugin.cli.into_wandb import check_wandb_only, maps_projects, projects_of
from mlflow_wandb_plugin.cli.progress import ProgressBar
from mlflow_wandb_plugin.cli.selecting import reads_source
from mlflow_wandb_plugin.core.model import Selection

SHOWN_DIFFERENCES = 5


@click.command()
@reads_source
@maps_projects
@click.option("--repair", is_flag=True, help="Write runs that differ again, and compare once more.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(
    source: str, to: str, experiment: str, selection: Selection, repair: bool, as_json: bool,
    mapped: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Compare the runs of SOURCE with those in MLflow, value by value.

    SOURCE is as for `mlflow-wandb backfill`. Compared are every point with its step and time,
    params, tags, name, status, start and end, and files by their content. What differs by design,
    such as times of two clocks, is counted apart. Nothing is written without --repair.

    Exit code: 0 all equal, 1 something differs or is absent, 2 it could not start.
    """
    # MLflow's own bars, one for each file, would hide this command's bar.
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    check_wandb_only(to, mapped)
    chosen = BackfillOptions(**options)
    job = Job(source, to, experiment, selection, chosen, projects=projects_of(mapped))
    opened_source, target = open_ends(job, create=False)
    with ProgressBar() as bar:
        bar.expect_runs(opened_source.count(selection))
        compared = compare(opened_source, target, selection, job.options, bar, repair)
        results = list(compared)
    if as_json:
        click.echo(json.dumps([_document(result) for result in results], indent=1))
    else:
        for result in results:
            _show(result)
        click.echo(_one_line(results))
    sys.exit(0 if all(result.result in ("equal", "foreign") for result in results) else 1)


def _document(result: Verified) -> dict[str, Any]:
    run = result.run
    document = {"run_id": run.run_id, "path": run.path, "name": run.name, **asdict(result)}
    del document["run"]
    return document


def _show(result: Verified) -> None:
    checked = ", ".join(f"{number:,} {kind}" for kind, number in sorted(result.checked.items()))
    details = result.reason or checked
    if result.by_design:
        details += f"; {len(result.by_design)} differ by design"
    if result.repaired:
        details += f"; {result.repaired:,} repaired"
    click.echo(f"{result.run.path}: {result.result} ({details})")
    for difference in result.differences[:SHOWN_DIFFERENCES]:
        click.echo(f"  {difference}")
    if result.count > SHOWN_DIFFERENCES:
        click.echo(f"  and {result.count - SHOWN_DIFFERENCES:,} more; --json lists the first 100")


def _one_line(results: list[Verified]) -> str:
    counted = Counter(result.result for result in results)
    return ", ".join(f"{number} {result}" for result, number in sorted(counted.items()))
