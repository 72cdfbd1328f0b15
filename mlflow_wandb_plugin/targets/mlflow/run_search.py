"""Finds the MLflow run of a W&B run by its tags, in every experiment; or by the run's config."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Twin
from mlflow_wandb_plugin.core.mlflow_terms import PARENT_TAG
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.mapping import to_mlflow
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.files.losses import REFUSED_METRIC
from mlflow_wandb_plugin.targets.mlflow.run_client import FoundRun

if TYPE_CHECKING:
    from mlflow.entities import Run

LISTING_S = 300.0
"""For how long the list of a project's runs is used, as by a backfill with ``--follow``."""
FOUND_TAGS = (
    identity.RUN_ID,
    identity.PROJECT,
    identity.ENTITY,
    identity.ORIGIN,
    identity.STATE,
    identity.POSITION,
    identity.ROWS,
    identity.LOSSES,
    identity.CLAIM,
    identity.ADOPTED,
    identity.SELECTION,
    identity.EWM_RUN_ID,
    to_mlflow.STATE,
    to_mlflow.EXIT_CODE,
)
"""The tags that are kept of each listed run."""
_ASKED_TAGS = tuple(name for tag in FOUND_TAGS for name in identity.all_names(tag))


class RunSearch:
    """Searches with few requests. Thread-safe.

    The first run of a W&B project is searched for by its id: a run that is dual-written needs no
    more. With the second one, all runs of the project are listed at once. A run that another
    process has created since is found when this process creates it: see `concurrent_creation`.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._listings: dict[tuple[str, str], _Listing] = {}
        self._lock = threading.Lock()

    def named_in_config(self, info: RunInfo) -> Run | None:
        """The active run whose id the W&B run's config has, unless it replicates another run."""
        run_id = info.config.get(identity.RUN_ID_CONFIG_KEY)
        run = self._existing(run_id) if isinstance(run_id, str) and run_id else None
        if run is None:
            return None
        tags = run.data.tags
        return run if identity.RUN_ID not in tags or identity.same_run(info, tags) else None

    def _existing(self, run_id: str) -> Run | None:
        """The active run of that id."""
        try:
            run = self._client.call(self._client.mlflow.get_run, run_id)
        except RefusedError as error:
            if error.code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def started_beside(self, info: RunInfo) -> list[Run]:
        """The active runs, not nested ones, which were started beside the W&B run; its config names
        them."""
        runs = (self._existing(run_id) for run_id in identity.runs_beside(info.config))
        return [
            run
            for run in runs
            if run is not None
            and identity.is_beside(info, run.data.tags)
            and not run.data.tags.keys() & {identity.RUN_ID, PARENT_TAG}
        ]

    def replicas(self, info: RunInfo) -> list[FoundRun]:
        """Active runs of all experiments that replicate ``info``; as they were when the runs of
        its project were listed, if they were."""
        tag = identity.RUN_ID

        def one() -> Iterable[FoundRun]:
            return self._client.call(self._client.client.find_runs, _ASKED_TAGS, tag, info.run_id)

        def all_of_project() -> Iterable[FoundRun]:
            client, call = self._client.client, self._client.call
            found = call(client.find_runs, _ASKED_TAGS, identity.PROJECT, info.project)
            # A run that names no project may be of any.
            return found + call(client.find_runs_lacking, _ASKED_TAGS, tag, identity.PROJECT)

        listing = self._listing(identity.PROJECT, info.project)
        found = listing.find(info.run_id, tag, one, all_of_project)
        return [run for run in found if _is_replica(info, run)]

    def replicas_now(self, info: RunInfo) -> list[Run]:
        """Active runs of all experiments that replicate ``info`` at this moment."""
        search = self._client.client.runs_with_tag
        runs = self._client.call(search, identity.RUN_ID, info.run_id)
        return [run for run in runs if identity.same_run(info, run.data.tags)]

    def created(self, info: RunInfo, run: Run) -> None:
        """Note that ``run`` replicates ``info``: the list of the project lacks it."""
        known = identity.present_tags(run.data.tags)
        tags = {tag: known[tag] for tag in FOUND_TAGS if tag in known}
        found = FoundRun.of(run.info.run_id, run.info.experiment_id, tags)
        self._listing(identity.PROJECT, info.project).add(info.run_id, found)

    def foreign(self, info: RunInfo, experiment_id: str) -> list[FoundRun]:
        """Active runs of an experiment into which export-wandb-to-mlflow migrated ``info``."""
        tag = identity.EWM_RUN_ID
        find = self._client.client.find_runs

        def one() -> Iterable[FoundRun]:
            return self._client.call(find, _ASKED_TAGS, tag, info.run_id, experiment_id)

        def all_of_experiment() -> Iterable[FoundRun]:
            return self._client.call(find, _ASKED_TAGS, tag, None, experiment_id)

        listing = self._listing(tag, experiment_id)
        return list(listing.find(info.run_id, tag, one, all_of_experiment))

    def _listing(self, *key: str) -> _Listing:
        with self._lock:
            return self._listings.setdefault((key[0], key[1]), _Listing())


class _Listing:
    """Runs by the W&B id in one of their tags, listed when the second one is asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._runs: dict[str, list[FoundRun]] | None = None
        self._listed_s = 0.0

    def find(
        self,
        run_id: str,
        tag: str,
        one: Callable[[], Iterable[FoundRun]],
        everything: Callable[[], Iterable[FoundRun]],
    ) -> Iterable[FoundRun]:
        """The runs whose ``tag`` is ``run_id``, found by ``one`` or kept from ``everything``."""
        with self._lock:
            if not self._asked:
                self._asked = True
                return one()
            now = time.monotonic()
            if self._runs is None or now > self._listed_s + LISTING_S:
                runs: dict[str, list[FoundRun]] = {}
                for run in everything():
                    # A run that was created in MLflow has the same id in W&B.
                    runs.setdefault(run.tags.get(tag, run.run_id), []).append(run)
                self._runs, self._listed_s = runs, now
            return tuple(self._runs.get(run_id, ()))

    def add(self, run_id: str, run: FoundRun) -> None:
        with self._lock:
            if self._runs is not None:
                self._runs.setdefault(run_id, []).append(run)


def _is_replica(info: RunInfo, run: FoundRun) -> bool:
    """Whether a found run is that of ``info``; one that was created in MLflow has no tag with the
    W&B run's id, which is its own."""
    tags = run.tags
    if tags.get(identity.ORIGIN) == identity.MIRROR:
        tags.setdefault(identity.RUN_ID, run.run_id)
    return identity.same_run(info, tags)


def twin_of(run: Run, named: bool, given: bool = False) -> Twin:
    """Describe the MLflow run of a W&B run. Its config names the run if ``named``; the user gave
    it to us to write if ``given``."""
    tags = identity.present_tags(run.data.tags)
    return _twin(run.info.run_id, run.info.experiment_id, tags, named, given)


def twin_of_found(run: FoundRun) -> Twin:
    """Describe a run that was found by its tags."""
    return _twin(run.run_id, run.experiment_id, run.tags)


def _twin(
    run_id: str,
    experiment_id: str,
    tags: Mapping[str, str],
    named: bool = False,
    given: bool = False,
) -> Twin:
    ours = identity.RUN_ID in tags
    return Twin(
        run_id=run_id,
        experiment_id=experiment_id,
        origin=tags.get(identity.ORIGIN, "dual" if named else ""),
        state=tags.get(identity.STATE, ""),
        position=identity.read_numbers(tags, identity.POSITION),
        rows=identity.read_numbers(tags, identity.ROWS),
        refused=identity.read_numbers(tags, identity.LOSSES).get(REFUSED_METRIC, 0),
        selection=tags.get(identity.SELECTION, identity.EVERYTHING),
        foreign=not ours and not named,
        end_unknown=tags.get(to_mlflow.STATE) == "killed" and to_mlflow.EXIT_CODE not in tags,
        adopted=(named and not ours and not given) or identity.ADOPTED in tags,
    )
