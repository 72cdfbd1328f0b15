"""``mlflow-wandb backfill``."""

from __future__ import annotations

import io
import json
import logging
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill import report
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.engines.processes import ProcessEngine
from mlflow_wandb_plugin.backfill.job import CurveRecordingSource, Engine, Job
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.plan import dual_experiment, plan
from mlflow_wandb_plugin.backfill.run import Outcome
from mlflow_wandb_plugin.backfill.run import backfill as run_backfill
from mlflow_wandb_plugin.cli.progress import ProgressBar
from mlflow_wandb_plugin.cli.selecting import selecting, selection
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source, Target
from mlflow_wandb_plugin.errors import UsageError

log = logging.getLogger("mlflow_wandb_plugin.backfill")
LOCAL, PROCESSES = "local", "processes"


@click.command()
@click.argument("source")
@click.option(
    "--to", default="", metavar="URI", help="MLflow tracking URI or archive:DIR. Default: MLflow's."
)
@click.option(
    "--experiment", default="{project}", show_default=True, help="Name of the MLflow experiment."
)
@selecting
@click.option("--order", type=click.Choice(("oldest", "newest")), default="oldest",
              show_default=True, help="Which runs come first.")  # fmt: skip
@click.option("--dual-written", type=click.Choice(("verify", "trust", "ignore")), default="verify",
              show_default=True, help="When to skip dual-written runs.")  # fmt: skip
@click.option("--existing", type=click.Choice(("skip", "update", "fail")), default="skip",
              show_default=True, help="What to do with runs migrated before.")  # fmt: skip
@click.option("--into-dual-experiment", is_flag=True, help="Join the dual-written runs.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Runs carried at the same time."
              "  [default: 4; with another engine, as many as there are CPUs]")  # fmt: skip
@click.option("--engine", default=LOCAL, show_default=True, metavar="NAME",
              help="What carries runs: local, processes, or what a plugin offers.")  # fmt: skip
@click.option("--ray-address", "address", default="", metavar="ADDRESS",
              help="The cluster of --engine ray. Default: Ray's own.")  # fmt: skip
@click.option("--write-path", type=click.Choice(("auto", "bulk", "api")), default="auto",
              show_default=True, help="Into MLflow's database, or by its API.")  # fmt: skip
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be done; write nothing.")
@click.option("--follow", is_flag=True, help="Keep topping up until interrupted.")
@click.option("--every", default=60.0, show_default=True, help="Seconds between rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--report", "report_file", type=click.Path(path_type=Path),
              help="Keep the report: .html, .json or text.")  # fmt: skip
@click.option("--log-dir", type=click.Path(path_type=Path), help="Keep a log in this folder.")
def backfill(
    source: str, to: str, experiment: str, runs: tuple[str, ...], filter_json: str,
    states: tuple[Any, ...], since: str, until: str, groups: tuple[str, ...],
    include_metric: tuple[str, ...], exclude_metric: tuple[str, ...], artifacts: bool,
    order: str, dual_written: Any, existing: Any, into_dual_experiment: bool, workers: int | None,
    engine: str, address: str, write_path: Any,
    only_plan: bool, follow: bool, every: float, as_json: bool, report_file: Path | None,
    log_dir: Path | None,
) -> None:  # fmt: skip
    """Carry W&B runs from SOURCE into MLflow.

    SOURCE is a wandb folder, a run folder, a .wandb file, wandb://ENTITY/PROJECT[/RUN],
    wandb+https://HOST/ENTITY/PROJECT[/RUN], archive:DIR, or what a plugin offers. Runs that MLflow
    has complete, dual-written or migrated before, are skipped; runs with holes are filled. Run it
    again whenever you like: it goes on where it stopped.

    Exit code: 0 all well, 1 some runs failed, 2 it could not start.
    """
    chosen = selection(runs, filter_json, states, since, until, groups, order == "newest")
    options = BackfillOptions(
        dual_written=dual_written,
        existing=existing,
        include_metrics=include_metric,
        exclude_metrics=exclude_metric,
        artifacts=artifacts,
        into_dual_experiment=into_dual_experiment,
        write_path=write_path,
        workers=workers or (4 if engine == LOCAL else 0),
    )
    _keep_log(log_dir)
    job = Job(source, to, experiment, chosen, options)
    elsewhere = _engine(engine, address, job)
    target = plugins.open_target(to, experiment)
    opened = plugins.open_source(source)
    if options.into_dual_experiment:
        job = replace(job, into=_join_dual(opened, target, chosen))
    if only_plan:
        _show_plan(opened, target, chosen, options, as_json)
        return
    curves = Curves()
    failed = False
    if follow:
        # Containers are stopped so; it is as good an end as Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for _ in _rounds(follow, every):
            # MLflow and clusters have things to say that are no part of a report.
            with redirect_stdout(sys.stderr):
                if elsewhere is not None:
                    outcomes = _round_elsewhere(elsewhere, job, opened, curves)
                else:
                    outcomes = _round(opened, target, chosen, options, curves)
            failed = any(outcome.action == "failed" for outcome in outcomes)
            _show(outcomes, as_json)
            if report_file is not None:
                _keep_report(report_file, outcomes, curves, target)
            if follow:
                opened = plugins.open_source(source)
    except KeyboardInterrupt:
        if not follow:
            raise
    sys.exit(1 if failed else 0)


def _rounds(follow: bool, every_s: float) -> Iterator[None]:
    """One round, or one after another with a pause between them."""
    yield
    while follow:
        time.sleep(every_s)
        yield


def _round(
    source: Source, target: Target, selection: Selection, options: BackfillOptions, curves: Curves
) -> list[Outcome]:
    with ProgressBar(lambda: _count(source, selection)) as bar:
        watched = CurveRecordingSource(source, curves)
        return _logged(run_backfill(watched, target, selection, options, bar))


def _round_elsewhere(engine: Engine, job: Job, source: Source, curves: Curves) -> list[Outcome]:
    with ProgressBar(lambda: _count(source, job.selection)) as bar:
        return _logged(engine.run(job, bar, curves))


def _logged(outcomes: Iterable[Outcome]) -> list[Outcome]:
    kept = []
    for outcome in outcomes:
        kept.append(outcome)
        log.info("%s %s %s: %s %s", outcome.run.path, outcome.verdict, outcome.action,
                 outcome.reason, dict(outcome.losses) or "")  # fmt: skip
    return kept


def _engine(name: str, address: str, job: Job) -> Engine | None:
    """The engine of that name, if it can do the job; None for threads of this process."""
    if address and name in (LOCAL, PROCESSES):
        raise UsageError("--ray-address needs --engine ray")
    if name == LOCAL:
        return None
    engine = ProcessEngine() if name == PROCESSES else plugins.open_engine(name, address)
    engine.check(job)
    return engine


def _count(source: Source, selection: Selection) -> int | None:
    """How many runs there will be, where that costs little."""
    count = getattr(source, "count", None)
    return count(selection) if count is not None else sum(1 for _ in source.runs(selection))


def _show(outcomes: list[Outcome], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.as_json(outcomes), indent=1))
        return
    from rich.console import Console

    console = Console()
    console.print(report.as_table(outcomes))
    console.print(report.one_line(outcomes), highlight=False)


def _show_plan(
    source: Source, target: Target, selection: Selection, options: BackfillOptions, as_json: bool
) -> None:
    planned = list(plan(source, target, selection, options))
    if as_json:
        click.echo(json.dumps(report.plan_as_json(planned), indent=1))
        return
    from rich.console import Console

    Console().print(report.plan_as_table(planned))


def _keep_report(path: Path, outcomes: list[Outcome], curves: Curves, target: Target) -> None:
    if path.suffix == ".html":
        from mlflow_wandb_plugin.backfill import html

        text = html.page(outcomes, curves, getattr(target, "curve", lambda run_id, key: []))
    elif path.suffix == ".json":
        text = json.dumps(report.as_json(outcomes), indent=1)
    else:
        from rich.console import Console

        console = Console(record=True, width=120, file=io.StringIO())
        console.print(report.as_table(outcomes))
        text = console.export_text() + report.one_line(outcomes) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _join_dual(source: Source, target: Target, selection: Selection) -> str:
    """Have ``target`` write into the experiment of the dual-written runs; returns its id."""
    write_into = getattr(target, "write_into", None)
    if write_into is None:
        raise UsageError("--into-dual-experiment needs an MLflow target")
    experiment = dual_experiment(source, target, selection)
    write_into(experiment)
    return experiment


def _keep_log(folder: Path | None) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = time.strftime("backfill-%Y%m%d-%H%M%S.log")
    handler = logging.FileHandler(folder / name, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
