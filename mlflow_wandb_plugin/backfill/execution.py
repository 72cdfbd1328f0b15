"""A backfill from its job to its report, as the command and the Python function use it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.carrier import selected
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.engines.base import Engine
from mlflow_wandb_plugin.backfill.engines.processes import ProcessEngine
from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.heading import Heading, installed_versions, now
from mlflow_wandb_plugin.backfill.options import BackfillOptions, Job
from mlflow_wandb_plugin.backfill.outcome import Listener, Outcome
from mlflow_wandb_plugin.backfill.plan import PlannedRun, dual_experiment, plan
from mlflow_wandb_plugin.backfill.report_files import write_report
from mlflow_wandb_plugin.backfill.verify import Verified, verify
from mlflow_wandb_plugin.core.mlflow_retries import few_mlflow_retries
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source, Target, WriteMethod
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.core.tracking_uri import names_mlflow
from mlflow_wandb_plugin.errors import MlflowWandbError, UsageError
from mlflow_wandb_plugin.mlflow_access.address import default_uri

LOCAL, PROCESSES = "local", "processes"


def open_ends(
    jobs: Sequence[Job], create: bool = True, allow_none: bool = False
) -> tuple[list[Source], Target]:
    """Open the sources and then the target of ``jobs``, which have one target and one selection.

    Args:
        create: whether the target may be created.
        allow_none: whether the sources may have no selected run.

    Raises:
        UsageError: no run is selected, both ends are MLflow, or one of them cannot be opened.
    """
    for job in jobs:
        if names_mlflow(job.source) and (not job.to or names_mlflow(job.to)):
            raise UsageError(
                "from MLflow to MLflow, use MLflow's own export tools; --to takes wandb://ENTITY "
                "or archive:DIR"
            )
    sources = [plugins.open_source(job.source, job.source_options()) for job in jobs]
    if not allow_none and not any(
        _has_runs(source, job) for source, job in zip(sources, jobs, strict=True)
    ):
        named = " and ".join(without_credentials(job.source) for job in jobs)
        raise UsageError(f"no run of {named} is selected: check --run, --state and the like")
    return sources, plugins.open_target(jobs[0].to, jobs[0].target_options(create))


def _has_runs(source: Source, job: Job) -> bool:
    """Whether a run is selected, or something cannot be listed, which is to be reported."""
    return next(selected(source, job.selection), None) is not None or bool(source.unreadable)


def with_dual_experiment(job: Job, source: Source) -> Job:
    """Return ``job`` with the experiment that the dual-written runs of ``source`` are in.

    Raises:
        UsageError: no selected run was dual-written, or the target has no experiments.
    """
    # Dual-written runs are looked for also where the backfill then ignores them. None is written.
    options = replace(job.target_options(), find_dual_written=True, adopt_dual=True)
    target = plugins.open_target(job.to, options)
    return replace(job, experiment_id=dual_experiment(source, target, job.selection))


class Backfill:
    """A backfill that can be planned, and run once or again and again.

    Args:
        jobs: one for each source; they differ in nothing else. Sources are read one after the
            other, so that logs of one run in several of them are joined.
        engine: "local" for threads of this process, "processes", or a plugin's engine.
        address: of the engine's cluster; empty means the engine's own default.
        keep_curves: keep points for the curves of an HTML report.
        only_plan: nothing will be carried, so that the target is not created.
        allow_none: runs may come later.

    Attributes:
        total: number of selected runs, where counting costs little; known once `run` is called.

    Raises:
        UsageError, SourceError, TargetUnavailableError, TargetUnusableError: it cannot be started.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        engine: str = LOCAL,
        address: str = "",
        keep_curves: bool = False,
        only_plan: bool = False,
        allow_none: bool = False,
    ) -> None:
        self._engine = _open_engine(engine, address, jobs)
        if jobs[0].options.into_dual_experiment:
            source = plugins.open_source(jobs[0].source, jobs[0].source_options())
            found = with_dual_experiment(jobs[0], source).experiment_id
            jobs = [replace(job, experiment_id=found) for job in jobs]
        self._jobs = jobs
        self._sources, self._target = open_ends(jobs, not only_plan, allow_none)
        if not only_plan:
            self._target.check()
        self._curves = Curves()
        self._date = now()
        self._keep_curves = keep_curves
        self._started = False
        self.total: int | None = None

    @property
    def write_method(self) -> WriteMethod:
        """How points are written, and why."""
        return self._target.write_method

    @property
    def comparable(self) -> bool:
        """Whether what was carried can be verified."""
        return self._target.comparable

    @property
    def heading(self) -> Heading:
        """What reports and plans say above their runs."""
        to = self._jobs[0].to or default_uri()
        mlflow_first = names_mlflow(self._jobs[0].source)
        return Heading(
            tuple(without_credentials(job.source) for job in self._jobs),
            without_credentials(to),
            self._date,
            installed_versions(),
            self.write_method,
            self._target.viewer,
            ("MLflow", "W&B") if mlflow_first else ("W&B", "MLflow"),
        )

    def plan(self) -> list[PlannedRun]:
        """Decide on each selected run; write nothing."""
        return [
            planned
            for source, job in zip(self._sources, self._jobs, strict=True)
            for planned in plan(source, self._target, job.selection, job.options)
        ]

    def run(self, listener: Listener | None = None) -> Iterator[Outcome]:
        """Carry the selected runs, also those that came since the last call.

        Yields:
            One outcome per run, as each is done.
        """
        if self._started:
            self._sources = [
                plugins.open_source(job.source, job.source_options()) for job in self._jobs
            ]
        self._started = True
        ends = list(zip(self._sources, self._jobs, strict=True))
        counts = [source.count(job.selection) for source, job in ends]
        unknown = None in counts or plugins.may_leave_out()
        self.total = None if unknown else sum(filter(None, counts))
        return self._carried(ends, listener or Listener())

    def not_carried(self) -> list[str]:
        """Return what the sources have beside their runs, such as reports, one line each.

        Nothing where a source does not answer: the runs are carried all the same.
        """
        lines: list[str] = []
        for source, job in zip(self._sources, self._jobs, strict=True):
            with contextlib.suppress(MlflowWandbError):
                lines += source.beside_runs(job.selection)
        return lines

    def _carried(self, ends: Sequence[tuple[Source, Job]], listener: Listener) -> Iterator[Outcome]:
        curves = self._curves if self._keep_curves else None
        for source, job in ends:
            if self._engine is not None:
                yield from self._engine.run(job, listener, self._curves)
            else:
                yield from backfill(
                    source, self._target, job.selection, job.options, listener, curves
                )

    def write_report(
        self, path: Path, outcomes: Sequence[Outcome], not_carried: Sequence[str] = ()
    ) -> None:
        """Write a report of ``outcomes`` in the format that the suffix of ``path`` names."""
        write_report(path, outcomes, self._curves, self._target, self.heading, not_carried)


def _open_engine(name: str, address: str, jobs: Sequence[Job]) -> Engine | None:
    """Open the engine of that name, if it can do the jobs; None for threads of this process."""
    if address and name in (LOCAL, PROCESSES):
        raise UsageError("--ray-address needs --engine ray")
    if name == LOCAL:
        return None
    engine = ProcessEngine() if name == PROCESSES else plugins.open_engine(name, address)
    for job in jobs:
        engine.check(job)
    return engine


def jobs_of(
    source: str | Sequence[str],
    to: str,
    experiment: str,
    selection: Selection,
    options: BackfillOptions,
    projects: Mapping[str, str] | None = None,
) -> list[Job]:
    """Make a job for each source.

    Raises:
        UsageError: there is no source, or ``experiment`` has an unknown placeholder.
    """
    sources = [source] if isinstance(source, str) else list(source)
    if not sources:
        raise UsageError("pass a source: a wandb folder, or wandb://ENTITY/PROJECT")
    mapped = dict(projects or {})
    return [Job(each, to, experiment, selection, options, projects=mapped) for each in sources]


def backfill_runs(
    source: str | Sequence[str],
    to: str = "",
    *,
    experiment: str = "{project}",
    selection: Selection | None = None,
    projects: Mapping[str, str] | None = None,
    **options: Any,
) -> list[Outcome]:
    """Migrate W&B runs to MLflow; skip complete ones, fill incomplete ones.

    Args:
        source: a wandb folder, a run folder, a ``.wandb`` file, or another source's URI; or several
            of them.
        to: an MLflow tracking URI, or another target's URI; empty means MLflow's own.
        experiment: template of the experiment's name, with {entity} and {project}.
        selection: which runs; None means all.
        projects: see `mlflow_wandb_plugin.core.protocols.TargetOptions`; for W&B targets.
        options: fields of `mlflow_wandb_plugin.backfill.options.BackfillOptions`.

    Raises:
        UsageError, SourceError: the backfill cannot be started. A run that fails is an outcome.
    """
    chosen = BackfillOptions.of(**options)
    jobs = jobs_of(source, to, experiment, selection or Selection(), chosen, projects)
    with few_mlflow_retries():
        return list(Backfill(jobs).run())


def verify_runs(
    source: str | Sequence[str],
    to: str = "",
    *,
    experiment: str = "{project}",
    selection: Selection | None = None,
    projects: Mapping[str, str] | None = None,
    repair: bool = False,
    **options: Any,
) -> list[Verified]:
    """Compare W&B runs with their replicas in MLflow, value by value.

    Args:
        source, to, experiment, selection, projects, options: as `backfill_runs` takes them.
        repair: write a run that differs again, and compare once more; else write nothing.

    Raises:
        UsageError, SourceError: nothing could be compared.
    """
    chosen = BackfillOptions.of(**options)
    jobs = jobs_of(source, to, experiment, selection or Selection(), chosen, projects)
    with few_mlflow_retries():
        sources, target = open_ends(jobs, create=False)
        return [
            result
            for each in sources
            for result in verify(each, target, jobs[0].selection, chosen, repair=repair)
        ]
