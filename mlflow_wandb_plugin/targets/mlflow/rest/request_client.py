"""What is done to runs on a tracking server, in few requests: each costs it some milliseconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mlflow_wandb_plugin.mapping.names import Limits

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, Run, RunTag

T = TypeVar("T")

KEPT_REPOSITORIES = 1000


class RequestClient:
    """An `MlflowClient` that does not ask the server for what it has just been told.

    Args:
        client: one whose store is MLflow's own `RestStore`.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._store: Any = client._tracking_client.store
        self._repositories: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: Mapping[str, str] | None = None,
        run_name: str | None = None,
    ) -> Run:
        run = self._client.create_run(experiment_id, start_time, dict(tags or {}), run_name)
        self._remember(run)
        return run

    def set_terminated(
        self, run_id: str, status: str | None = None, end_time: int | None = None
    ) -> None:
        """MLflow's own also asks for the run, to print where it can be seen."""
        from mlflow.entities import RunStatus

        self._store.update_run_info(
            run_id,
            RunStatus.from_string(status or "FINISHED"),
            end_time or int(time.time() * 1000),
            None,
        )

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Artifacts that the server keeps go to this client's server, also where the process has
        another one as its own (with MLflow 3.1 they would go to that one)."""
        try:
            repository = self._repositories[run_id]
        except KeyError:
            repository = self._remember(self._client.get_run(run_id))
        if repository is None:
            self._client.log_artifact(run_id, local_path, artifact_path)
        else:
            repository.log_artifact(local_path, artifact_path)

    def _remember(self, run: Run) -> Any | None:
        """Where files of a run go; None is left to MLflow."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri, repository = run.info.artifact_uri or "", None
        if uri.startswith("mlflow-artifacts:"):
            repository = get_artifact_repository(uri, tracking_uri=self._client.tracking_uri)
        with self._lock:
            self._repositories[run.info.run_id] = repository
            while len(self._repositories) > KEPT_REPOSITORIES:
                del self._repositories[next(iter(self._repositories))]
        return repository


class Gathered:
    """Params and tags of runs that wait to go together; of two tags with one key the last."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[dict[str, Param], dict[str, RunTag]]] = {}

    def add(self, run_id: str, params: Sequence[Param], tags: Sequence[RunTag]) -> None:
        own_params, own_tags = self._items.setdefault(run_id, ({}, {}))
        own_params.update((param.key, param) for param in params)
        for tag in tags:
            own_tags.pop(tag.key, None)
            own_tags[tag.key] = tag

    def batches(self) -> Iterator[tuple[str, list[Param], list[RunTag]]]:
        """As few as MLflow's limits allow; the last of all holds the last tags."""
        size = Limits.installed().batch_params
        for run_id, (params, tags) in self._items.items():
            some_params = _parts(list(params.values()), size)
            some_tags = _parts(list(tags.values()), size)
            for part in some_params[:-1]:
                yield run_id, part, []
            for rest in some_tags[:-1]:
                yield run_id, [], rest
            if params or tags:
                yield run_id, some_params[-1], some_tags[-1]


def _parts(items: list[T], size: int) -> list[list[T]]:
    """One at least, be it empty."""
    return [items[start : start + size] for start in range(0, len(items), size)] or [[]]
