"""``mlflow-wandb backfill``."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mlflow_wandb_plugin.backfill import report
from mlflow_wandb_plugin.backfill.execution import LOCAL, Backfill, jobs_of
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.backfill.report_files import SUFFIXES, write_plan
from mlflow_wandb_plugin.cli import INTERRUPTED
from mlflow_wandb_plugin.cli.into_wandb import check_wandb_only, maps_projects, projects_of
from mlflow_wandb_plugin.cli.next_commands import examples, same_with
from mlflow_wandb_plugin.cli.progress import ProgressBar
from mlflow_wandb_plugin.cli.selecting import reads_source
from mlflow_wandb_plugin.cli.terminal import console, current, echo, say, working
from mlflow_wandb_plugin.cli.verify import verify
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.output_file import check_output_file
from mlflow_wandb_plugin.errors import UsageError

SHOWN_LINES = 10
"""Lines of what was not carried; the others are counted."""
log = logging.getLogger("mlflow_wandb_plugin.backfill")


@click.command(
    epilog=examples(
        "mlflow-wandb backfill ./wandb --to sqlite:///mlflow.db --dry-run",
        "mlflow-wandb backfill ./wandb --to sqlite:///mlflow.db --report report.html",
        "mlflow-wandb backfill wandb://my-team/mnist --to http://127.0.0.1:5000",
        "mlflow-wandb backfill wandb://my-team --to archive:./runs --since 2026-01-01",
        "mlflow-wandb backfill sqlite:///mlflow.db --to wandb://my-team/mnist",
    )
)
@reads_source
@click.option("--order", type=click.Choice(("oldest", "newest")), default="oldest",
              show_default=True, help="Which runs come first.")  # fmt: skip
@click.option("--dual-written", type=click.Choice(("verify", "trust", "ignore")), default="verify",
              show_default=True, help="Which dual-written runs to skip.")  # fmt: skip
@click.option("--adopt-dual", is_flag=True,
              help="Complete the MLflow run that a config names, though it lacks the run's tags:"
              " for runs that MosaicML Composer dual-writes.")  # fmt: skip
@click.option("--existing", type=click.Choice(("skip", "update", "fail")), default="skip",
              show_default=True, help="What to do with runs migrated before.")  # fmt: skip
@click.option("--incremental/--no-incremental", default=None,
              help="Into W&B, skip complete runs (default), or update them.")  # fmt: skip
@maps_projects
@click.option("--into-dual-experiment", is_flag=True,
              help="Write into the experiment of the dual-written runs.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 1024), help="Runs carried at the same time."
              "  [default: 4; with another engine, as many as there are CPUs]")  # fmt: skip
@click.option("--engine", default=LOCAL, show_default=True, metavar="NAME",
              help="Engine: local (threads), processes, or a plugin's.")  # fmt: skip
@click.option("--ray-address", "address", default="", metavar="ADDRESS",
              help="Cluster of --engine ray. Default: Ray's own.")  # fmt: skip
@click.option("--write-path", type=click.Choice(("auto", "bulk", "api")), default="auto",
              show_default=True, help="Points go to MLflow's database or API.")  # fmt: skip
@click.option("--plan", "--dry-run", "only_plan", is_flag=True,
              help="Show what would be done, and how long it may take; write nothing.")  # fmt: skip
@click.option("--follow", is_flag=True, help="Repeat the backfill until interrupted.")
@click.option("--every", default=60.0, show_default=True, help="Seconds between repetitions.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--report", "report_file", type=click.Path(path_type=Path),
              help="Write the report into this file: .html, .json, .jsonl or text.")  # fmt: skip
@click.option("--log-dir", type=click.Path(path_type=Path), help="Write a log into this folder.")
def backfill(
    sources: tuple[str, ...], to: str, experiment: str, selection: Selection, order: str,
    workers: int | None, engine: str, address: str, only_plan: bool, follow: bool, every: float,
    as_json: bool, report_file: Path | None, log_dir: Path | None, mapped: tuple[str, ...],
    incremental: bool | None, **options: Any,
) -> None:  # fmt: skip
    """Migrate the runs of each SOURCE: W&B's to MLflow or another W&B, MLflow's to W&B.

    SOURCE is a wandb folder, a run folder, a .wandb file, wandb://ENTITY[/PROJECT[/RUN]],
    wandb+https://HOST/ENTITY[/PROJECT[/RUN]], archive:DIR, an MLflow tracking URI (mlflow: for
    MLflow's own), or a plugin's URI. Runs that are complete in the target, dual-written or migrated
    before, are skipped; incomplete runs are filled. Run it again at any time: it continues where it
    stopped.

    Exit code: 0 no run failed, 1 some runs failed, 2 it could not start, 130 interrupted.
    """
    selection = replace(selection, newest_first=order == "newest")
    workers = workers or (4 if engine == LOCAL else 0)
    if report_file is not None:
        check_output_file("--report", report_file, SUFFIXES)
    check_wandb_only(to, mapped, incremental, options["existing"])
    if incremental is False:
        options["existing"] = "update"
    _keep_log(log_dir)
    chosen = BackfillOptions(workers=workers, **options)
    jobs = jobs_of(sources, to, experiment, selection, chosen, projects_of(mapped))
    keep_curves = report_file is not None and report_file.suffix == ".html"
    with working("opening the source and the target"):
        session = Backfill(jobs, engine, address, keep_curves, only_plan, allow_none=follow)
    if only_plan:
        _show_plan(session, as_json, report_file)
        return
    failed = False
    try:
        for _ in _rounds(every) if follow else (None,):
            outcomes: list[Outcome] = []
            failed = _carry(session, outcomes, selection, as_json, report_file)
    except KeyboardInterrupt:
        if not follow:
            sys.exit(INTERRUPTED)
    sys.exit(1 if failed else 0)


def _carry(
    session: Backfill,
    outcomes: list[Outcome],
    selection: Selection,
    as_json: bool,
    report_file: Path | None,
) -> bool:
    """Carry the selected runs once, and report; returns whether one failed."""
    try:
        # What MLflow and clusters print is not part of the report.
        with redirect_stdout(sys.stderr), ProgressBar() as bar:
            carried = session.run(bar)
            bar.expect_runs(session.total)
            for outcome in carried:
                outcomes.append(outcome)
                log.info("%s %s %s: %s %s", outcome.run.path, outcome.verdict, outcome.action,
                         outcome.reason, dict(outcome.losses) or "")  # fmt: skip
    except KeyboardInterrupt:
        of = "" if session.total is None else f" of {session.total}"
        echo(f"{bar.runs_done}{of} runs done; run the same command to go on", err=True)
        raise
    outcomes = report.in_order(outcomes, selection.newest_first)
    with working("asking what the source has beside its runs"):
        not_carried = session.not_carried()
    # First, so that what was done is told also where the file cannot be written.
    _show(outcomes, session, not_carried, as_json)
    if report_file is not None:
        with working(f"writing {report_file}"):
            session.write_report(report_file, outcomes, not_carried)
    return any(outcome.action == "failed" for outcome in outcomes)


def _show_plan(session: Backfill, as_json: bool, report_file: Path | None) -> None:
    with working("looking at each run and at what the target has of it"):
        planned, heading = session.plan(), session.heading
    if report_file is not None:
        write_plan(report_file, planned, heading)
    if as_json:
        echo(json.dumps(report.plan_as_json(planned, heading), indent=1))
        return
    if not current().quiet:
        console().print(report.plan_as_table(planned))
    for line in report.legend(item.decision.verdict for item in planned):
        say(line)
    say(report.written_by(session.write_method))
    echo(report.plan_in_one_line(planned, heading))


def _rounds(every_s: float) -> Iterator[None]:
    """Yield again and again, with a pause of ``every_s`` seconds, until the process is interrupted.

    Raises:
        KeyboardInterrupt: A SIGINT or SIGTERM came. Python prints and drops the exception of a
            signal that comes while a finalizer runs; the round then ends, and no other one begins.
    """
    interrupted = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    # Containers are stopped with SIGTERM. A shell's background command ignores SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    while not interrupted.is_set():
        yield
        interrupted.wait(every_s)
    raise KeyboardInterrupt


def _show(
    outcomes: list[Outcome], session: Backfill, not_carried: list[str], as_json: bool
) -> None:
    if as_json:
        echo(json.dumps(report.as_json(outcomes, session.heading, not_carried), indent=1))
        return
    if not current().quiet:
        console().print(report.as_table(outcomes))
    say(report.written_by(session.write_method))
    for line in not_carried[:SHOWN_LINES]:
        say(f"not carried: {line}")
    if len(not_carried) > SHOWN_LINES:
        say(f"not carried: {len(not_carried) - SHOWN_LINES:,} more; --json names all")
    if session.heading.viewer:
        say(f"See them: {session.heading.viewer}")
    echo(f"{report.one_line(outcomes)}.{_next(outcomes, session)}")


def _next(outcomes: list[Outcome], session: Backfill) -> str:
    """What to type next: again what failed, else the command that checks what was carried."""
    if any(outcome.action == "failed" for outcome in outcomes):
        return " Once the reasons above are gone, the same command carries what failed."
    return f" Check: {same_with(verify)}" if session.comparable and outcomes else ""


def _keep_log(folder: Path | None) -> None:
    if folder is None:
        return
    name = time.strftime("backfill-%Y%m%d-%H%M%S.log")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / name, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--log-dir {folder} cannot be written: {error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
