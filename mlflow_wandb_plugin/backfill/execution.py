"""A backfill from its job to its report, as the command and the Python function use it."""

from __future__ import annotations

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
from mlflow_wandb_plugin.backfill.options import BackfillOptions, Job
from mlflow_wandb_plugin.backfill.outcome import Listener, Outcome
from mlflow_wandb_plugin.backfill.plan import PlannedRun, dual_experiment, plan
from mlflow_wandb_plugin.backfill.report_files import write_report
from mlflow_wandb_plugin.backfill.verify import Verified, verify
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source, Target, WriteMethod
from mlflow_wandb_plugin.core.tracking_uri import names_mlflow
from mlflow_wandb_plugin.errors import UsageError

LOCAL, PROCESSES = "local", "processes"


def open_ends(job: Job, create: bool = True, allow_none: bool = False) -> tuple[Source, Target]:
    """Open the source and then the target of ``job``.

    Args:
        create: whether the target may be created.
        allow_none: whether the source may have no selected run.

    Raises:
        UsageError: no run is selected, both are MLflow, or one of them cannot be opened.
    """
    if names_mlflow(job.source) and (not job.to or names_mlflow(job.to)):
        raise UsageError(
            "from MLflow to MLflow, use MLflow's own export tools; --to takes wandb://ENTITY or "
            "archive:DIR"
        )
    source = plugins.open_source(job.source, job.source_options())
    nothing = not allow_none and next(selected(source, job.selection), None) is None
    if nothing and not source.unreadable:
        raise UsageError(f"no run of {job.source} is selected: check --run, --state and the like")
    return source, plugins.open_target(job.to, job.target_options(create))


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
        job: Job,
        engine: str = LOCAL,
        address: str = "",
        keep_curves: bool = False,
        only_plan: bool = False,
        allow_none: bool = False,
    ) -> None:
        self._engine = _open_engine(engine, address, job)
        if job.options.into_dual_experiment:
            job = with_dual_experiment(job, plugins.open_source(job.source, job.source_options()))
        self._job = job
        self._source, self._target = open_ends(job, not only_plan, allow_none)
        if not only_plan:
            self._target.check()
        self._curves = Curves()
        self._keep_curves = keep_curves
        self._started = False
        self.total: int | None = None

    @property
    def write_method(self) -> WriteMethod:
        """How points are written, and why."""
        return self._target.write_method

    def plan(self) -> list[PlannedRun]:
        """Decide on each selected run; write nothing."""
        return list(plan(self._source, self._target, self._job.selection, self._job.options))

    def run(self, listener: Listener | None = None) -> Iterator[Outcome]:
        """Carry the selected runs, also those that came since the last call.

        Yields:
            One outcome per run, as each is done.
        """
        job, listener = self._job, listener or Listener()
        self.total = self._source.count(job.selection)
        if self._started:
            self._source = plugins.open_source(job.source, job.source_options())
        self._started = True
        if self._engine is not None:
            return self._engine.run(job, listener, self._curves)
        curves = self._curves if self._keep_curves else None
        return backfill(self._source, self._target, job.selection, job.options, listener, curves)

    def write_report(self, path: Path, outcomes: Sequence[Outcome]) -> None:
        """Write a report of ``outcomes`` in the format that the suffix of ``path`` names."""
        write_report(path, outcomes, self._curves, self._target.curve, self.write_method)


def _open_engine(name: str, address: str, job: Job) -> Engine | None:
    """Open the engine of that name, if it can do the job; None for threads of this process."""
    if address and name in (LOCAL, PROCESSES):
        raise UsageError("--ray-address needs --engine ray")
    if name == LOCAL:
        return None
    engine = ProcessEngine() if name == PROCESSES else plugins.open_engine(name, address)
    engine.check(job)
    return engine


def backfill_runs(
    source: str,
    to: str = "",
    *,
    experiment: str = "{project}",
    selection: Selection | None = None,
    projects: Mapping[str, str] | None = None,
    **options: Any,
) -> list[Outcome]:
    """Migrate W&B runs to MLflow; skip complete ones, fill incomplete ones.

    Args:
        source: a wandb folder, a run folder, a ``.wandb`` file, or another source's URI.
        to: an MLflow tracking URI, or another target's URI; empty means MLflow's own.
        experiment: template of the experiment's name, with {entity} and {project}.
        selection: which runs; None means all.
        projects: see `mlflow_wandb_plugin.core.protocols.TargetOptions`; for W&B targets.
        options: fields of `mlflow_wandb_plugin.backfill.options.BackfillOptions`.

    Raises:
        UsageError, SourceError: the backfill cannot be started. A run that fails is an outcome.
    """
    chosen = BackfillOptions.of(**options)
    selected_runs = selection or Selection()
    job = Job(source, to, experiment, selected_runs, chosen, projects=projects or {})
    return list(Backfill(job).run())


def verify_runs(
    source: str,
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
    selected_runs = selection or Selection()
    job = Job(source, to, experiment, selected_runs, chosen, projects=projects or {})
    return list(verify(*open_ends(job, create=False), job.selection, chosen, repair=repair))
