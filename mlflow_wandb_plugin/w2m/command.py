"""``w2m``: the command of export-wandb-to-mlflow, run by this package's backfill."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill import report
from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.execution import with_dual_experiment
from mlflow_wandb_plugin.backfill.options import BackfillOptions, Job
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.cli.progress import ProgressBar
from mlflow_wandb_plugin.core.model import Item, RunInfo, Selection, Size
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.errors import MlflowWandbError, UsageError
from mlflow_wandb_plugin.w2m.flags import Flags, parse

log = logging.getLogger("mlflow_wandb_plugin.w2m")
USAGE = 2
_DUAL: Mapping[bool | None, Literal["verify", "trust", "ignore"]]
_DUAL = {True: "trust", False: "ignore", None: "verify"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the console script: an error of this package is one line and exit code 2."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        flags = parse(sys.argv[1:] if arguments is None else arguments)
        with _log_kept(flags):
            outcomes = run(flags)
            log.info("%s: %s", flags.wandb_project_name, report.one_line(outcomes))
    except MlflowWandbError as error:
        print(f"w2m: {error}", file=sys.stderr)
        sys.exit(USAGE)
    sys.exit(1 if any(outcome.action == "failed" for outcome in outcomes) else 0)


def run(flags: Flags) -> list[Outcome]:
    """Run the backfill that ``flags`` describe.

    Raises:
        UsageError, SourceError: it cannot be started. A run that fails is an outcome.
    """
    narrowing = Narrowing.of(flags)
    job = Job(source_uri(flags), options=options(flags))
    if flags.dry_run:
        job = replace(job, to=f"archive:{flags.dry_run_save_dir}")
    else:
        job = replace(job, experiment=experiment_name(flags))
    source = NarrowedSource(plugins.open_source(job.source, job.source_options()), narrowing)
    if job.options.into_dual_experiment:
        job = _join_dual(job, source)
    target = plugins.open_target(job.to, job.target_options())
    target.check()
    outcomes = []
    with ProgressBar() as bar:
        for outcome in backfill(source, target, job.selection, job.options, bar):
            outcomes.append(outcome)
            _log_outcome(outcome)
    if flags.resume_from_dry_run and not source.listed:
        raise UsageError(f"no run of {flags.wandb_project_name} in {flags.dry_run_save_dir}")
    return outcomes


def options(flags: Flags) -> BackfillOptions:
    """Return the backfill's options.

    A dual-written run is skipped as the flag says, by default if it is complete. Each flag about
    such runs also means that the MLflow runs that configs name are theirs. In a dry run the
    archive has no dual-written runs, so `Narrowing` skips by the run's config.
    """
    return BackfillOptions(
        dual_written=_DUAL[flags.skip_dual_writing_runs],
        adopt_dual=flags.is_dual_writing_experiment or flags.skip_dual_writing_runs is not None,
        exclude_metrics=tuple(map(_whole_name, flags.exclude_metrics)),
        into_dual_experiment=flags.is_dual_writing_experiment and not flags.dry_run,
        workers=flags.dry_run_thread_pool_size or 1 if flags.dry_run else 1,
    )


def source_uri(flags: Flags) -> str:
    """Return the URI that the runs are read from.

    Raises:
        UsageError: the project's entity is not known.
    """
    if flags.resume_from_dry_run:
        return f"archive:{_old_project(flags) or flags.dry_run_save_dir}"
    entity = flags.wandb_org_name or _default_entity()
    return "wandb://" + "/".join(quote(name, "") for name in (entity, flags.wandb_project_name))


def _old_project(flags: Flags) -> Path | None:
    """Return the project's folder in an archive of export-wandb-to-mlflow, if there is one. That
    tool names it after the experiment, if one was given."""
    folder = Path(flags.dry_run_save_dir) / flags.wandb_project_name
    return folder if (folder / "tags.csv").is_file() else None


def _default_entity() -> str:
    if os.environ.get("WANDB_ENTITY"):
        return os.environ["WANDB_ENTITY"]
    from wandb.sdk import wandb_setup

    entity = wandb_setup.singleton().settings.entity
    if not entity:
        raise UsageError("the project's entity is unknown: set --wandb_org_name or WANDB_ENTITY")
    return str(entity)


def experiment_name(flags: Flags) -> str:
    """Return the experiment's name. export-wandb-to-mlflow puts a slash before it, as Databricks
    requires: an existing experiment of that name is used."""
    from mlflow_wandb_plugin.mlflow_access.address import default_uri
    from mlflow_wandb_plugin.targets.mlflow.client import Client, check_reachable

    name = flags.mlflow_experiment_name or flags.wandb_project_name
    if name.startswith("/"):
        return name
    check_reachable(default_uri())
    client = Client(None)
    databricks = str(client.uri).startswith("databricks")
    return f"/{name}" if databricks or client.find_experiment(f"/{name}") else name


def _join_dual(job: Job, source: Source) -> Job:
    """Return ``job`` with the dual-written runs' experiment, if there are such runs."""
    try:
        job = with_dual_experiment(job, source)
        log.info("writing into the dual-written runs' experiment %s", job.experiment_id)
    except UsageError:
        log.info("no run of the project was dual-written: it gets an experiment of its own")
    return job


def _whole_name(pattern: str) -> str:
    """Return a regular expression that matches a whole metric name: the pattern or its text."""
    try:
        re.compile(pattern)
    except re.error:
        return f"^{re.escape(pattern)}$"
    return f"^(?:{pattern}|{re.escape(pattern)})$"


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Which runs of a source the flags select.

    Attributes:
        project: empty where the source has only one.
        names: regular expressions that a run's name begins with.
        no_marked: skip runs whose config says that they were dual-written.
    """

    entity: str = ""
    project: str = ""
    names: tuple[re.Pattern[str], ...] = ()
    no_marked: bool = False

    @classmethod
    def of(cls, flags: Flags) -> Narrowing:
        """Return what ``flags`` select; UsageError if a name is no regular expression."""
        try:
            names = tuple(re.compile(name) for name in flags.wandb_run_names)
        except re.error as error:
            raise UsageError(f"--wandb_run_names is not a regular expression: {error}") from error
        of_many = flags.resume_from_dry_run and _old_project(flags) is None
        return cls(
            entity=flags.wandb_org_name if of_many else "",
            project=flags.wandb_project_name if of_many else "",
            names=names,
            no_marked=flags.dry_run and bool(flags.skip_dual_writing_runs),
        )

    def in_project(self, info: RunInfo) -> bool:
        if self.project and info.project != self.project:
            return False
        return not self.entity or not info.entity or info.entity == self.entity

    def takes(self, info: RunInfo) -> bool:
        if self.names and not any(name.match(info.name) for name in self.names):
            log.debug("skipped %s (%s): its name is not selected", info.run_id, info.name)
            return False
        if self.no_marked and is_marked(info.config):
            reason = "dual-written, according to its config"
            log.info("skipped %s (%s): %s", info.run_id, info.name, reason)
            return False
        return True


def is_marked(config: Mapping[str, object]) -> bool:
    """Return whether a config says that its run was dual-written by this package, MosaicML Composer
    or llm-foundry."""
    loggers = config.get("loggers")
    named = isinstance(loggers, Mapping) and "mlflow" in loggers
    return named or "mlflow_run_id" in config or "mlflow_experiment_id" in config


class NarrowedSource(Source):
    """A `Source` of some of another source's runs; ``listed`` counts those of the project."""

    def __init__(self, source: Source, narrowing: Narrowing) -> None:
        self.listed = 0
        self._source = source
        self._narrowing = narrowing

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        for info in self._source.runs(selection):
            if self._narrowing.in_project(info):
                self.listed += 1
                if self._narrowing.takes(info):
                    yield info
        self.unreadable = self._source.unreadable

    def size(self, run: RunInfo) -> Size:
        return self._source.size(run)

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        return self._source.read(run, since)

    def add_to_config(self, run: RunInfo, keys: Mapping[str, str]) -> None:
        self._source.add_to_config(run, keys)


@contextlib.contextmanager
def _log_kept(flags: Flags) -> Iterator[None]:
    """Log to stdout, and to a file if ``log_dir`` is given.

    Raises:
        UsageError: the folder cannot be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if flags.log_dir:
        try:
            Path(flags.log_dir).mkdir(parents=True, exist_ok=True)
            file = Path(flags.log_dir) / time.strftime("w2m-%Y%m%d-%H%M%S.log")
            handlers.append(logging.FileHandler(file, encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"--log_dir: {error}") from error
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.DEBUG if flags.verbose else logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def _log_outcome(outcome: Outcome) -> None:
    run = outcome.run
    level = logging.ERROR if outcome.action == "failed" else logging.INFO
    what = f"{outcome.points:,} points" if outcome.points else ""
    details = [part for part in (outcome.reason, what) if part]
    details += [f"lost {number} {kind}" for kind, number in sorted(outcome.losses.items())]
    details += [str(unreadable) for unreadable in outcome.unreadable]
    log.log(level, "%s %s (%s): %s", outcome.action, run.run_id, run.name, "; ".join(details))
