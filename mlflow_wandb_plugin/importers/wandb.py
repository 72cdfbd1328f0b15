"""Import runs and artifacts of a W&B server into another one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.core.limiter import Limiter
from mlflow_wandb_plugin.core.model import RunInfo, Selection, UnreadableRange
from mlflow_wandb_plugin.core.protocols import Source, SourceOptions
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError, UsageError
from mlflow_wandb_plugin.importers.carrying import (
    ChosenRuns,
    ImportResult,
    carry,
    import_options,
    log,
)
from mlflow_wandb_plugin.importers.namespace import Namespace
from mlflow_wandb_plugin.importers.result_files import ResultFiles
from mlflow_wandb_plugin.sources.wandb_server.entity import WandbEntitySource
from mlflow_wandb_plugin.sources.wandb_server.opening import open_address
from mlflow_wandb_plugin.sources.wandb_server.source import WandbServerSource
from mlflow_wandb_plugin.targets.wandb.lookup import Access
from mlflow_wandb_plugin.wandb_api.address import server_address

Remapping = Mapping[Namespace, Namespace]


@dataclass(frozen=True)
class WandbRun:
    """A run of a W&B server, described without its history."""

    run: RunInfo

    def run_id(self) -> str:
        """The run's id."""
        return self.run.run_id

    def entity(self) -> str:
        """The entity that has the run."""
        return self.run.entity

    def project(self) -> str:
        """The project that the run is in."""
        return self.run.project

    def display_name(self) -> str:
        """The name that people see."""
        return self.run.name


class WandbImporter:
    """Imports runs and artifacts of a W&B server into another one, or into other projects.

    Args:
        src_base_url, src_api_key: the server to read, and its key.
        dst_base_url, dst_api_key: the server to write to, and its key.
        results_dir: folder of the files of successes and errors.

    Raises:
        UsageError: a URL is malformed, or a key is empty.
    """

    def __init__(
        self,
        src_base_url: str,
        src_api_key: str,
        dst_base_url: str,
        dst_api_key: str,
        *,
        results_dir: str | Path = ".",
    ) -> None:
        self._from = server_address(src_base_url, src_api_key)
        self._to = server_address(dst_base_url, dst_api_key)
        self._gate = Limiter()
        self._results_dir = Path(results_dir)

    def __repr__(self) -> str:
        return f"<WandbImporter src={self._from.base_url} dst={self._to.base_url}>"

    def collect_runs(
        self, *, namespaces: Iterable[Namespace] | None = None, limit: int | None = None
    ) -> Iterator[WandbRun]:
        """Yield the runs of some projects, oldest first; W&B is asked as they are taken.

        Args:
            namespaces: the projects; None means all of the key's default entity.
            limit: the greatest number of runs; None means all.

        Raises:
            MlflowWandbError: a project cannot be listed.
        """
        return map(WandbRun, itertools.islice(self._listed(namespaces), limit))

    def import_runs(
        self,
        runs: Iterable[WandbRun] | None = None,
        *,
        namespaces: Iterable[Namespace] | None = None,
        remapping: Remapping | None = None,
        parallel: bool = True,
        incremental: bool = True,
        max_workers: int | None = None,
        limit: int | None = None,
        metadata: bool = True,
        files: bool = True,
        media: bool = True,
        code: bool = True,
        history: bool = True,
        summary: bool = True,
        terminal_output: bool = True,
    ) -> ImportResult:
        """Import runs without their artifacts. A run that fails is an outcome; the others go on.

        Args:
            runs: those of `collect_runs`; None means all of ``namespaces``.
            namespaces: the projects; None means all of the key's default entity.
            remapping: where the runs of a project go; others go into the project of that name.
            parallel: carry several runs at the same time.
            incremental: skip complete runs, and fill partial ones; False writes all again.
            max_workers: how many runs are carried at the same time; None means 4.
            limit: the greatest number of runs; None means all.
            metadata, files, media, code, history, summary, terminal_output: runs are carried
                whole: only True is taken.

        Raises:
            MlflowWandbError: nothing can be imported, or a part of the runs is not wanted.
            TypeError: both ``runs`` and ``namespaces`` are given.
        """
        if runs is not None and namespaces is not None:
            raise TypeError("pass runs or namespaces")
        parts = {"metadata": metadata, "files": files, "media": media, "code": code,
                 "history": history, "summary": summary,
                 "terminal_output": terminal_output}  # fmt: skip
        refused = [name for name, wanted in parts.items() if not wanted]
        if refused:
            raise UsageError(f"runs are imported whole: leave out {refused[0]}=False")
        places = _Places(remapping or {})
        unlisted: list[UnreadableRange] = []
        if runs is None:
            sources = self._sources(namespaces, artifacts=False)
            chosen = _chosen(sources, places, unlisted)
        else:
            chosen = self._named(runs, places)
        source = ChosenRuns(itertools.islice(chosen, limit), unlisted)
        options = import_options(False, incremental, parallel, max_workers)
        return self._import(source, places, options)

    def import_artifact_sequences(
        self,
        *,
        namespaces: Iterable[Namespace] | None = None,
        incremental: bool = True,
        max_workers: int | None = None,
        remapping: Remapping | None = None,
    ) -> ImportResult:
        """Import artifacts, with the runs that logged and used them; arguments as `import_runs`
        has them."""
        options = import_options(True, incremental, True, max_workers)
        return self._import_namespaces(namespaces, remapping, options)

    def import_reports(
        self,
        *,
        namespaces: Iterable[Namespace] | None = None,
        limit: int | None = None,
        remapping: Remapping | None = None,
    ) -> ImportResult:
        """Count the reports, which are not carried, and warn of them.

        Args:
            namespaces: as `import_runs` has them.
            limit, remapping: change nothing, as no report is written.

        Raises:
            MlflowWandbError: a project cannot be read.
        """
        number = sum(len(source.reports()) for source in self._sources(namespaces, False))
        if number:
            log.warning("%d W&B reports of %s are not carried: copy them in W&B's own pages",
                        number, self._from.base_url)  # fmt: skip
        return ImportResult(reports=number)

    def import_all(
        self,
        *,
        runs: bool = True,
        artifacts: bool = True,
        reports: bool = True,
        namespaces: Iterable[Namespace] | None = None,
        incremental: bool = True,
        remapping: Remapping | None = None,
    ) -> ImportResult:
        """Import runs and artifacts, and count the reports.

        Args:
            runs, artifacts: what to import; artifacts come with the runs that have them.
            reports: count the reports.
            namespaces, incremental, remapping: as `import_runs` has them.

        Raises:
            MlflowWandbError: nothing can be imported.
        """
        chosen = None if namespaces is None else list(namespaces)
        result = ImportResult()
        if runs or artifacts:
            options = import_options(artifacts, incremental, True, None)
            result = self._import_namespaces(chosen, remapping, options)
        if reports:
            counted = self.import_reports(namespaces=chosen)
            result = replace(result, reports=counted.reports)
        return result

    def _import_namespaces(
        self,
        namespaces: Iterable[Namespace] | None,
        remapping: Remapping | None,
        options: BackfillOptions,
    ) -> ImportResult:
        places, unlisted = _Places(remapping or {}), list[UnreadableRange]()
        chosen = _chosen(self._sources(namespaces, options.artifacts), places, unlisted)
        return self._import(ChosenRuns(chosen, unlisted), places, options)

    def _import(
        self, source: ChosenRuns, places: _Places, options: BackfillOptions
    ) -> ImportResult:
        """Carry the runs of ``source`` and note their outcomes in the files."""
        results = ResultFiles(self._results_dir, options.artifacts)
        outcomes = []
        for outcome in carry(source, self._to, options, places.projects):
            run = outcome.run
            if not run.project:
                # A project that could not be listed: it is named in place of a run.
                entity, _, project = run.run_id.partition("/")
                run = replace(run, run_id="", entity=entity, project=project)
                outcome = replace(outcome, run=run)
            results.record(outcome, places.of(run), source.logged.pop(run.path, []))
            outcomes.append(outcome)
        return ImportResult(tuple(outcomes))

    def _listed(self, namespaces: Iterable[Namespace] | None) -> Iterator[RunInfo]:
        for source in self._sources(namespaces, artifacts=True):
            yield from source.runs(Selection())
            for unlisted in source.unreadable:
                raise SourceError(unlisted.reason)

    def _named(self, runs: Iterable[WandbRun], places: _Places) -> Iterator[tuple[Source, RunInfo]]:
        """Yield runs that were listed before, each with the source of its project."""
        sources: dict[str, Source] = {}
        for one in runs:
            run = one.run
            if run.project_path not in sources:
                namespace = Namespace(run.entity, run.project)
                [sources[run.project_path]] = self._sources([namespace], artifacts=False)
            places.add(run)
            yield sources[run.project_path], run

    def _sources(
        self, namespaces: Iterable[Namespace] | None, artifacts: bool
    ) -> Iterator[WandbServerSource | WandbEntitySource]:
        """Open the projects, or the key's default entity with all of its projects."""
        options = SourceOptions(artifacts, self._gate)
        if namespaces is None:
            entity = Access(server=self._from).entity()
            yield open_address(replace(self._from, entity=entity), options)
            return
        for one in namespaces:
            _check(one)
            address = replace(self._from, entity=one.entity, project=one.project)
            yield open_address(address, options)


class _Places:
    """Where runs go.

    Attributes:
        projects: the target's project by the source's, of the runs that were added.
    """

    def __init__(self, remapping: Remapping) -> None:
        for one in remapping.values():
            _check(one)
        self._remapping = remapping
        self.projects: dict[str, str] = {}

    def of(self, run: RunInfo) -> Namespace:
        """Return where a run goes."""
        namespace = Namespace(run.entity, run.project)
        return self._remapping.get(namespace, namespace)

    def add(self, run: RunInfo) -> None:
        """Add the project of a run."""
        self.projects[run.project_path] = self.of(run).path


def _chosen(
    sources: Iterable[WandbServerSource | WandbEntitySource],
    places: _Places,
    unlisted: list[UnreadableRange],
) -> Iterator[tuple[Source, RunInfo]]:
    """Yield the runs of ``sources``; note where they go, and projects that cannot be listed."""
    for source in sources:
        try:
            for run in source.runs(Selection()):
                places.add(run)
                yield source, run
        except SourceUnavailableError:
            raise
        except SourceError as error:
            if isinstance(source, WandbEntitySource):
                raise
            unlisted.append(UnreadableRange(source.path, 0, 1, str(error)))
        unlisted.extend(source.unreadable)


def _check(namespace: Namespace) -> None:
    if not namespace.entity or not namespace.project:
        raise UsageError(f"{namespace} names no project of an entity")
