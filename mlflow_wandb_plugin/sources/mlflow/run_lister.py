"""List the runs of an MLflow store: those of the selected experiments, parents first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core.mlflow_terms import PARENT_TAG
from mlflow_wandb_plugin.core.model import RunInfo, Selection
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError, UsageError
from mlflow_wandb_plugin.sources.mlflow.replica import described, is_parent_of_replicas
from mlflow_wandb_plugin.sources.mlflow.store_client import PAGE, StoreClient

if TYPE_CHECKING:
    from mlflow.entities import Run

EXPERIMENTS_A_SEARCH = 200
"""Experiments of one search of runs, where more would make the request too long."""


LISTED_RUNS = 200
"""Entities of listed runs that are kept: a plan asks for the size of a run when it is listed."""


class RunLister:
    """Lists runs. Memory holds a page of them, the names of experiments, and ids."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client
        self._names: dict[str, str] = {}
        self._listed: dict[str, Run] = {}

    def experiment_name(self, experiment_id: str) -> str:
        """Return the name of an experiment, which is asked for once."""
        if experiment_id not in self._names:
            found = self._client.ask(self._client.mlflow.get_experiment, experiment_id)
            self._names[experiment_id] = str(found.name)
        return self._names[experiment_id]

    def run(self, run_id: str) -> Run:
        """Return MLflow's entity of a run."""
        return self._client.ask(self._client.mlflow.get_run, run_id)

    def listed(self, run_id: str) -> Run:
        """Return MLflow's entity of a run as it was listed; asked for where that was long ago."""
        return self._listed.get(run_id) or self.run(run_id)

    def keep(self, run: Run) -> None:
        """Keep the entity of a listed run for a while."""
        self._listed[run.info.run_id] = run
        while len(self._listed) > LISTED_RUNS:
            self._listed.pop(next(iter(self._listed)), None)

    def active_run(self, run_id: str) -> Run | None:
        """Return a run; None if there is none, or it was deleted."""
        try:
            run = self.run(run_id)
        except SourceUnavailableError:
            raise
        except SourceError:
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        """Yield the selected runs that are not deleted, by their start (of each
        `EXPERIMENTS_A_SEARCH` experiments); a parent comes before its children, and the children of
        a run that ``selection.runs`` names come with it.

        Raises:
            UsageError: no experiment is selected, or MLflow does not understand the filter.
            SourceError: they cannot be listed.
        """
        listing = _Listing(self, selection)
        for run in self._search(selection):
            yield from listing.take(run)

    def info(self, run: Run) -> RunInfo:
        """Describe a run as far as the entity has it."""
        return described(run, self.experiment_name(run.info.experiment_id), self._client.uri)

    def _search(self, selection: Selection) -> Iterator[Run]:
        experiments = self._experiments(selection)
        order = "DESC" if selection.newest_first else "ASC"
        for start in range(0, len(experiments), EXPERIMENTS_A_SEARCH):
            try:
                yield from self._client.pages(
                    self._client.mlflow.search_runs,
                    experiments[start : start + EXPERIMENTS_A_SEARCH],
                    _filter(selection),
                    max_results=PAGE,
                    order_by=[f"attributes.start_time {order}"],
                )
            except SourceUnavailableError:
                raise
            except SourceError as error:
                if not isinstance(selection.filter, str) or not selection.filter:
                    raise
                raise UsageError(f"--filter {selection.filter!r} is refused: {error}") from error

    def _experiments(self, selection: Selection) -> list[str]:
        """Ids of the selected experiments that are not deleted."""
        found = []
        for one in self._client.pages(self._client.mlflow.search_experiments, max_results=PAGE):
            self._names[str(one.experiment_id)] = str(one.name)
            if selection.takes_experiment(str(one.experiment_id), str(one.name)):
                found.append(str(one.experiment_id))
        if not found and selection.experiments:
            named = ", ".join(selection.experiments)
            raise UsageError(
                f"no experiment of {without_credentials(self._client.uri)} is called {named}"
            )
        return found


class _Listing:
    """Decides on one run after another, in the order in which MLflow lists them."""

    def __init__(self, lister: RunLister, selection: Selection) -> None:
        self._lister = lister
        self._selection = selection
        self._by_name = Selection(runs=selection.runs)
        self._others = replace(selection, runs=())
        self._named: dict[str, bool] = {}
        """Whether a run, or a run above it, is one that the selection names, by id."""
        self._ahead: set[str] = set()

    def take(self, run: Run) -> Iterator[RunInfo]:
        """Yield a run if it is selected, after the selected ones above it that were not listed
        yet; each once."""
        named = False
        above: list[Run] = []
        current = run
        while parent := current.data.tags.get(PARENT_TAG):
            if parent in self._named:
                named = self._named[parent]
                break
            self._named[parent] = False
            found = self._lister.active_run(parent)
            if found is None:
                break
            above.append(found)
            current = found
        for one in (*reversed(above), run):
            info = self._lister.info(one)
            named = named or self._by_name.takes(info)
            self._named[info.run_id] = self._named[one.info.run_id] = named
            if named and one.info.run_id not in self._ahead and self._takes(one, info, one is run):
                if one is not run:
                    self._ahead.add(one.info.run_id)
                self._lister.keep(one)
                yield info

    def _takes(self, run: Run, info: RunInfo, listed: bool) -> bool:
        """Whether all but the name of a run is selected; MLflow has applied the filter and the
        experiments to those that it lists."""
        if is_parent_of_replicas(run) or not self._others.takes(info):
            return False
        experiment_id = run.info.experiment_id
        name = self._lister.experiment_name(experiment_id)
        return listed or (
            not self._selection.filter and self._selection.takes_experiment(experiment_id, name)
        )


def _filter(selection: Selection) -> str:
    """What MLflow itself filters: the user's filter, and when runs started."""
    parts = [selection.filter] if isinstance(selection.filter, str) and selection.filter else []
    if selection.since_ms is not None:
        parts.append(f"attributes.start_time >= {selection.since_ms}")
    if selection.until_ms is not None:
        parts.append(f"attributes.start_time < {selection.until_ms}")
    return " and ".join(parts)
