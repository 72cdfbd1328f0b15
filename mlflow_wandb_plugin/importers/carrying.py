"""Carry runs that a caller chose into a W&B server, by the backfill."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlflow_wandb_plugin.backfill import report
from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.options import BackfillOptions, Job
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Item,
    Key,
    RunInfo,
    Selection,
    Size,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.sources.wandb_server.opening import open_project
from mlflow_wandb_plugin.targets.wandb.server_target import WandbTarget
from mlflow_wandb_plugin.wandb_api.address import ProjectAddress

log = logging.getLogger("mlflow_wandb_plugin.importers")
WORKERS = 4
"""Runs carried at the same time, unless the caller says otherwise."""


def failed(outcome: Outcome) -> bool:
    """Whether a run was not imported: also where the target has a run of its id that others wrote,
    which a backfill leaves alone."""
    return outcome.action == "failed" or outcome.verdict == "foreign"


@dataclass(frozen=True)
class ImportResult:
    """What an import did.

    Attributes:
        outcomes: one per run, as each was done.
        reports: number of W&B reports of the source, which are not carried.
    """

    outcomes: tuple[Outcome, ...] = ()
    reports: int = 0

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The outcomes of the runs that failed, or whose id another run has."""
        return tuple(outcome for outcome in self.outcomes if failed(outcome))

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of runs by what was done, and of reports that are not carried."""
        counted = report.counts([outcome for outcome in self.outcomes if not failed(outcome)])
        return {**counted, "failed": len(self.failed), "reports_not_carried": self.reports}


@dataclass(frozen=True, slots=True)
class LoggedArtifact:
    """Name of an artifact that a run logged."""

    type: str
    name: str
    version: str


class ChosenRuns(Source):
    """A `Source` of runs of any sources, in the order of ``chosen``, each once. Thread-safe.

    Args:
        chosen: runs, each with its source; consumed while they are carried.
        unlisted: what could not be listed, complete once ``chosen`` has ended.

    Attributes:
        logged: the artifacts that a run logged, by its path, once it has been read.
    """

    def __init__(
        self, chosen: Iterable[tuple[Source, RunInfo]], unlisted: Sequence[UnreadableRange] = ()
    ) -> None:
        self._chosen = chosen
        self._sources: dict[str, Source] = {}
        self.unreadable = unlisted
        self.logged: dict[str, list[LoggedArtifact]] = {}

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """Yield the runs; only once."""
        for source, run in self._chosen:
            if run.path not in self._sources:
                self._sources[run.path] = source
                yield run

    def count(self, selection: Selection) -> None:
        """Counting would consume the runs."""

    def point_counts(self, run: RunInfo) -> Mapping[Key, int] | None:
        return self._sources[run.path].point_counts(run)

    def size(self, run: RunInfo) -> Size:
        return self._sources[run.path].size(run)

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        logged = self.logged[run.path] = []
        for item in self._sources[run.path].read(run, since):
            if isinstance(item, ArtifactRef) and not item.used:
                logged.append(LoggedArtifact(item.type, item.name, item.version))
            yield item

    def add_to_config(self, run: RunInfo, keys: Mapping[str, str]) -> None:
        self._sources[run.path].add_to_config(run, keys)


def import_options(
    artifacts: bool, incremental: bool, parallel: bool, max_workers: int | None
) -> BackfillOptions:
    """Return the backfill's options for the arguments of an importer."""
    return BackfillOptions(
        existing="skip" if incremental else "update",
        artifacts=artifacts,
        workers=(max_workers or WORKERS) if parallel else 1,
    )


def carry(
    source: ChosenRuns,
    target: ProjectAddress,
    options: BackfillOptions,
    projects: Mapping[str, str] | None = None,
) -> Iterator[Outcome]:
    """Carry the runs of ``source``; yield one outcome per run. Failures are logged.

    Args:
        target: without a project where ``projects`` names one for each run.
        projects: see `core.protocols.TargetOptions`; may grow while runs are chosen.

    Raises:
        UsageError, TargetUnusableError, SourceError: no run can be written, or none be listed.
    """
    job = Job("", options=options, projects={} if projects is None else projects)
    opened = WandbTarget(target, job.target_options(), open_project)
    opened.check()
    for outcome in backfill(source, opened, Selection(), options):
        if failed(outcome):
            log.warning("%s was not imported: %s", outcome.run.path, outcome.reason)
        else:
            log.info("%s: %s %s", outcome.run.path, outcome.action, outcome.reason)
        yield outcome
