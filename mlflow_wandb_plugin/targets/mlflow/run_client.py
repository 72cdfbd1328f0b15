"""The operations on runs that do not go through MLflow's own client everywhere."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mlflow_wandb_plugin.targets.mlflow.point_blocks import Points

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

Metrics: TypeAlias = "Sequence[Metric]"
Params: TypeAlias = "Sequence[Param]"
Tags: TypeAlias = "Sequence[RunTag]"

KEPT_REPOSITORIES = 1000


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to create; it starts now where ``start_ms`` (Unix ms) is None."""

    experiment_id: str
    name: str
    start_ms: int | None
    tags: Mapping[str, str]


class RunClient:
    """Does each operation as MLflow's client does it; subclasses do some of them faster, with the
    same results and the same errors."""

    shares_transactions = False
    """Whether the steps of `batched` are one transaction, which one more does not slow."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def create_run(self, new: NewRun) -> Run:
        return self._client.create_run(new.experiment_id, new.start_ms, dict(new.tags), new.name)

    def create_first(self, new: NewRun, tag: str) -> Run | None:
        """Create a run, if it is certain that no other active run of the experiment has the same
        value of ``tag`` when it is created; else return None and do nothing."""
        return None

    def get_run_data(self, run_id: str) -> Run:
        """A run; its inputs and outputs may be left out."""
        return self._client.get_run(run_id)

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        self._client.update_run(run_id, status, name)

    def set_terminated(self, run_id: str, status: str, end_ms: int | None) -> None:
        self._client.set_terminated(run_id, status, end_ms)

    def runs_with_tag(self, experiment_id: str, key: str, value: str) -> list[Run]:
        """Active runs of an experiment whose tag has this value, the newest first."""
        # MLflow's filters cannot express every value: filter by what they can, then compare.
        condition = has_tag(key) if "'" in value else f"tags.`{key}` = '{value}'"
        runs: list[Run] = []
        token: str | None = None
        while True:
            page: Any = self._client.search_runs(
                [experiment_id], condition, max_results=1000, page_token=token
            )
            runs += [run for run in page if run.data.tags.get(key) == value]
            token = page.token
            if not token:
                return runs

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
        repository = self._repositories.get(run_id)
        if repository is None:
            super().log_artifact(run_id, local_path, artifact_path)
        else:
            repository.log_artifact(local_path, artifact_path)  # type: ignore[no-untyped-call]

    def _keep_repository(self, run_id: str, artifact_uri: str | None) -> None:
        from mlflow.store.artifact import artifact_repository_registry as registry

        if run_id in self._repositories:
            return
        uri, repository = artifact_uri or "", None
        if self._uris.match(uri):
            tracking_uri = self._client.tracking_uri
            repository = registry.get_artifact_repository(uri, tracking_uri=tracking_uri)
        with self._lock:
            self._repositories[run_id] = repository
            while len(self._repositories) > KEPT_REPOSITORIES:
                del self._repositories[next(iter(self._repositories))]


def points_of(name: str, metrics: Sequence[Metric]) -> Points:
    """Return MLflow's entities of one metric as columns."""
    return Points(
        name,
        [metric.value for metric in metrics],
        [metric.timestamp for metric in metrics],
        [metric.step for metric in metrics],
    )


def has_tag(key: str) -> str:
    """MLflow's filter of the runs that have a tag."""
    return f"tags.`{key}` LIKE '%'"
