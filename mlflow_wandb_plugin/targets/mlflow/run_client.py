"""The operations on runs that do not go through MLflow's own client everywhere."""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mlflow_wandb_plugin.core.identity import present_tags
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.mlflow_access.repositories import open_repository
from mlflow_wandb_plugin.targets.mlflow import model_copies
from mlflow_wandb_plugin.targets.mlflow.model_copies import ModelCopy

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

Metrics: TypeAlias = "Sequence[Metric]"
Params: TypeAlias = "Sequence[Param]"
Tags: TypeAlias = "Sequence[RunTag]"

"""The scheme of artifacts that a tracking server keeps."""
KEPT_REPOSITORIES = 1000
PAGE = 1000
"""Runs or experiments an answer, and experiments a request."""
WIDENING_TRIES = 3
EXPERIMENTS_S = 300.0
"""After this time all experiments are listed again: some may be deleted or restored."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to create; it starts now where ``start_ms`` (Unix ms) is None."""

    experiment_id: str
    name: str
    start_ms: int | None
    tags: Mapping[str, str]


class FoundRun(NamedTuple):
    """A run that was found, with few of its tags, under their present names: a backfill keeps one
    of each of its runs."""

    run_id: str
    experiment_id: str
    kept: tuple[str, ...]
    """Keys and values of tags, by turns."""

    @classmethod
    def of(cls, run_id: str, experiment_id: str, tags: Mapping[str, str]) -> FoundRun:
        kept = (sys.intern(text) for item in present_tags(tags).items() for text in item)
        return cls(run_id, sys.intern(experiment_id), tuple(kept))

    @property
    def tags(self) -> dict[str, str]:
        return dict(zip(self.kept[::2], self.kept[1::2], strict=True))


class RunClient:
    """Does each operation as MLflow's client does it; subclasses do some of them faster, with the
    same results and the same errors."""

    shares_transactions = False
    """Whether the steps of `batched` are one transaction, which one more does not slow."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._experiments: dict[str, int] = {}
        self._listed_s = -math.inf

    def create_run(self, new: NewRun) -> Run:
        return self._client.create_run(new.experiment_id, new.start_ms, dict(new.tags), new.name)

    def create_first(
        self, new: NewRun, tag: str, same: Callable[[Mapping[str, str]], bool]
    ) -> Run | None:
        """Create a run, if it is certain that no other active run stands for the same W&B run
        when it is created; else return None and do nothing.

        Args:
            tag: the others have its value of the new run, and tags of which ``same`` is true.
        """
        return None

    def get_run_data(self, run_id: str) -> Run:
        """A run; its inputs and outputs may be left out."""
        return self._client.get_run(run_id)

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        self._client.update_run(run_id, status, name)

    def set_terminated(self, run_id: str, status: str, end_ms: int | None) -> None:
        self._client.set_terminated(run_id, status, end_ms)

    def widen_run(self, run_id: str, start_ms: int | None, end_ms: int | None) -> None:
        """Let a run that has ended begin no later than ``start_ms`` and end no earlier than
        ``end_ms``. MLflow's own calls cannot change when a run began."""
        if end_ms is None:
            return
        for _ in range(WIDENING_TRIES):
            # Another process may write an earlier end between these calls.
            if (self._client.get_run(run_id).info.end_time or 0) >= end_ms:
                return
            self.set_terminated(run_id, "FINISHED", end_ms)

    def runs_with_tag(self, key: str, value: str, experiment_id: str = "") -> list[Run]:
        """Active runs whose tag has this value: those of one experiment, or of all."""
        return list(self._search(key, value, experiment_id))

    def find_runs(
        self, wanted: Sequence[str], key: str, value: str | None, experiment_id: str = ""
    ) -> list[FoundRun]:
        """Find runs as `runs_with_tag` does, with their tags ``wanted`` only; with any value of
        the tag where ``value`` is None."""
        return [_found(run, wanted) for run in self._search(key, value, experiment_id)]

    def find_runs_lacking(self, wanted: Sequence[str], key: str, absent: str) -> list[FoundRun]:
        """Find active runs of all experiments that have the tag ``key`` and not the tag ``absent``;
        none where MLflow has no such filter."""
        from mlflow.exceptions import MlflowException

        condition = f"{has_tag(key)} AND tags.`{absent}` IS NULL"
        try:
            runs = list(self._matching(condition, self._all_experiments()))
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            return []
        return [_found(run, wanted) for run in runs]

    def _search(self, key: str, value: str | None, experiment_id: str) -> Iterator[Run]:
        # MLflow's filters cannot express every value: filter by what they can, then compare.
        by_value = value is not None and "'" not in value
        condition = f"tags.`{key}` = '{value}'" if by_value else has_tag(key)
        experiments = [experiment_id] if experiment_id else self._all_experiments()
        for run in self._matching(condition, experiments):
            if value is None or run.data.tags.get(key) == value:
                yield run

    def _matching(self, condition: str, experiments: list[str]) -> Iterator[Run]:
        for start in range(0, len(experiments), PAGE):
            search = partial(
                self._client.search_runs, experiments[start : start + PAGE], condition,
                max_results=PAGE,
            )  # fmt: skip
            yield from _pages(search)

    def _all_experiments(self) -> list[str]:
        """Ids of all active experiments at this moment: another process may just have created
        the run that is looked for in a new one. Only new ones are asked for, as a rule."""
        now = time.monotonic()
        if now > self._listed_s + EXPERIMENTS_S:
            self._experiments, self._listed_s = {}, now
        newest_ms = max(self._experiments.values(), default=0)
        new = f"creation_time >= {newest_ms}" if newest_ms else None
        search = partial(self._client.search_experiments, filter_string=new, max_results=PAGE)
        for experiment in _pages(search):
            self._experiments[str(experiment.experiment_id)] = experiment.creation_time or 0
        return sorted(self._experiments)

    def log_batch(
        self, run_id: str, metrics: Metrics = (), params: Params = (), tags: Tags = ()
    ) -> None:
        self._client.log_batch(run_id, metrics, params, tags, synchronous=True)

    def batched(self, steps: Sequence[Callable[[], object]]) -> bool:
        """Take all steps in one transaction; False if that is not possible and nothing was done."""
        return False

    def delete_tag(self, run_id: str, key: str) -> None:
        self._client.delete_tag(run_id, key)

    def log_inputs(self, run_id: str, datasets: Sequence[DatasetInput]) -> None:
        self._client.log_inputs(run_id, datasets)

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        self._client.log_artifact(run_id, local_path, artifact_path)

    def log_model(self, experiment_id: str, run_id: str, model: ModelCopy) -> None:
        """See `model_copies.log_model`."""
        model_copies.log_model(self._client, experiment_id, run_id, model)

    def points(self, run_id: str, names: Sequence[str]) -> Iterator[Points]:
        """Yield all points of the metrics ``names``, in blocks; points of further metrics of the
        run may be among them."""
        for name in names:
            yield points_of(name, self._client.get_metric_history(run_id, name))

    def point_counts(self, run_id: str) -> dict[str, int]:
        """Number of points by metric."""
        names = list(self._client.get_run(run_id).data.metrics)
        counts = Counter(dict.fromkeys(names, 0))
        for points in self.points(run_id, names):
            counts[points.name] += len(points.values)
        return dict(counts)

    def put_text(self, run_id: str, path: str, text: str) -> bool:
        """Write a small file among a run's artifacts, if they are files of this machine; else
        return False and do nothing."""
        return False


class RepositoryClient(RunClient):
    """Keeps the artifact repositories of runs: MLflow's client would read the run again at each
    file. Thread-safe.

    Args:
        uris: matches the artifact URIs whose repositories are kept.
    """

    def __init__(self, client: MlflowClient, uris: str) -> None:
        super().__init__(client)
        self._uris = re.compile(uris)
        self._repositories: dict[str, ArtifactRepository | None] = {}
        self._lock = threading.Lock()

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Upload a file. Artifacts that the server keeps go to this client's server; MLflow 3.1
        would send them to the process's own tracking server."""
        if run_id not in self._repositories:
            self._keep_repository(run_id, self._client.get_run(run_id).info.artifact_uri)
        repository = self._repositories.get(run_id)
        if repository is None:
            super().log_artifact(run_id, local_path, artifact_path)
        else:
            repository.log_artifact(local_path, artifact_path)  # type: ignore[no-untyped-call]

    def _keep_repository(self, run_id: str, artifact_uri: str | None) -> None:
        if run_id in self._repositories:
            return
        uri, repository = artifact_uri or "", None
        if self._uris.match(uri):
            repository = open_repository(uri, self._client.tracking_uri)
        with self._lock:
            self._repositories[run_id] = repository
            while len(self._repositories) > KEPT_REPOSITORIES:
                del self._repositories[next(iter(self._repositories))]


def _found(run: Run, wanted: Sequence[str]) -> FoundRun:
    tags = {tag: run.data.tags[tag] for tag in wanted if tag in run.data.tags}
    return FoundRun.of(run.info.run_id, run.info.experiment_id, tags)


def points_of(name: str, metrics: Sequence[Metric]) -> Points:
    """Return MLflow's entities of one metric as columns."""
    return Points(
        name,
        [metric.value for metric in metrics],
        [metric.timestamp for metric in metrics],
        [metric.step for metric in metrics],
    )


def _pages(fetch: Callable[..., Any]) -> Iterator[Any]:
    """Yield what ``fetch`` returns, page by page; it takes a ``page_token``."""
    token: str | None = None
    while True:
        page = fetch(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def has_tag(key: str) -> str:
    """MLflow's filter of the runs that have a tag."""
    return f"tags.`{key}` LIKE '%'"
