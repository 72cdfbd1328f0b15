"""``mlflow-wandb verify``."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from mlflow_wandb_plugin.backfill.execution import jobs_of, open_ends
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.verify import Verified
from mlflow_wandb_plugin.backfill.verify import verify as compare
from mlflow_wandb_plugin.cli.into_wandb import check_wandb_only, maps_projects, projects_of
from mlflow_wandb_plugin.cli.next_commands import examples, same_with
from mlflow_wandb_plugin.cli.progress import ProgressBar
from mlflow_wandb_plugin.cli.selecting import reads_source
from mlflow_wandb_plugin.cli.terminal import echo, say, working
from mlflow_wandb_plugin.core.model import Selection

SHOWN_DIFFERENCES = 5


@click.command(
    epilog=examples(
        "mlflow-wandb verify ./wandb --to sqlite:///mlflow.db",
        "mlflow-wandb verify wandb://my-team/mnist --to http://127.0.0.1:5000 --repair",
        "mlflow-wandb verify ./wandb --to sqlite:///mlflow.db --can-delete",
    )
)
@reads_source
@maps_projects
@click.option("--repair", is_flag=True, help="Write runs that differ again, and compare once more.")
@click.option("--can-delete", is_flag=True,
              help="Say what only SOURCE has: may it be deleted?")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(
    sources: tuple[str, ...], to: str, experiment: str, selection: Selection, repair: bool,
    can_delete: bool, as_json: bool, mapped: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Compare the runs of each SOURCE with those in the target, value by value.

    SOURCE is as for `mlflow-wandb backfill`. Compared are every point with its step and time,
    params, tags, name, status, start and end, and files by their content. What differs by design,
    such as times of two clocks, is counted apart. Nothing is written without --repair.

    With --can-delete, what counts is what only SOURCE has: runs, values, files, and what was lost
    on the way; what only the target has is no reason to keep SOURCE.

    Exit code: 0 all equal (nothing is in SOURCE alone), 1 something differs or is absent, 2 it
    could not start.
    """
    # MLflow's own bars, one for each file, would hide this command's bar.
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    check_wandb_only(to, mapped)
    chosen = BackfillOptions(**options)
    jobs = jobs_of(sources, to, experiment, selection, chosen, projects_of(mapped))
    with working("opening the source and the target"):
        opened, target = open_ends(jobs, create=False)
    with ProgressBar() as bar:
        counts = [source.count(selection) for source in opened]
        bar.expect_runs(None if None in counts else sum(filter(None, counts)))
        results = [
            result
            for source in opened
            for result in compare(source, target, selection, chosen, bar, repair)
        ]
        kept_by = [reason for source in opened for reason in source.beside_runs(selection)]
    if can_delete:
        sys.exit(_answer_deletion(results, kept_by, as_json))
    if as_json:
        echo(json.dumps([_document(result) for result in results], indent=1))
    else:
        for result in results:
            _show(result)
        echo(f"{_one_line(results)}. {_next(results, repair)}")
    sys.exit(0 if all(result.result in ("equal", "foreign") for result in results) else 1)


def _answer_deletion(results: list[Verified], kept_by: list[str], as_json: bool) -> int:
    """Print what only the source has; returns the exit code."""
    reasons = {result.run.path: result.only_in_source for result in results}
    reasons = {path: lines for path, lines in reasons.items() if lines}
    if as_json:
        answer = not reasons and not kept_by
        document = {"can_delete": answer, "runs": reasons, "beside_runs": kept_by}
        echo(json.dumps(document, indent=1))
        return 0 if answer else 1
    for path, lines in reasons.items():
        say(f"{path}: only in the source:")
        for line in lines[:SHOWN_DIFFERENCES]:
            say(f"  {line}")
        if len(lines) > SHOWN_DIFFERENCES:
            say(f"  and {len(lines) - SHOWN_DIFFERENCES:,} more; --json lists the first 100")
    for line in kept_by:
        say(f"only in the source: {line}")
    if reasons or kept_by:
        echo(f"keep it: {len(reasons):,} of {len(results):,} runs are not all in the target")
        return 1
    echo(f"the target has all of {len(results):,} runs: the source may be deleted")
    return 0


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
    say(f"{result.run.path}: {result.result} ({details})")
    for difference in result.differences[:SHOWN_DIFFERENCES]:
        say(f"  {difference}")
    if result.count > SHOWN_DIFFERENCES:
        say(f"  and {result.count - SHOWN_DIFFERENCES:,} more; --json lists the first 100")


def _one_line(results: list[Verified]) -> str:
    counted = Counter(result.result for result in results)
    return ", ".join(f"{number} {result}" for result, number in sorted(counted.items()))


def _next(results: list[Verified], repair: bool) -> str:
    """The verdict in words, and what to type next."""
    there = {result.result for result in results}
    if "failed" in there:
        return "Some could not be compared; the lines above say why"
    if "absent" in there:
        return "The target lacks runs: mlflow-wandb backfill with the same arguments carries them"
    if "different" in there:
        if repair:
            return "What still differs cannot be changed in the target"
        return f"Repair: {same_with(verify, '--repair')}"
    if "foreign" in there:
        return "Runs that another tool wrote were not compared"
    return (
        f"The target has all of it. May the source be deleted? {same_with(verify, '--can-delete')}"
    )
