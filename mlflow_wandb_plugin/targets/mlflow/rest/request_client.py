"""Operations on the runs of a tracking server, with few requests: each costs milliseconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.mlflow_access.repositories import KEPT_BY_SERVER
from mlflow_wandb_plugin.targets.mlflow.run_client import (
    NewRun,
    RepositoryClient,
    points_of,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


PAGE_POINTS = 25_000
"""Points of one answer; the most that MLflow's server returns."""


class RequestClient(RepositoryClient):
    """Leaves out requests whose answers are known. The client's store must be MLflow's
    `RestStore`."""

    def __init__(self, client: MlflowClient) -> None:
        super().__init__(client, KEPT_BY_SERVER)
        self._store: Any = client._tracking_client.store

    def create_run(self, new: NewRun) -> Run:
        run = super().create_run(new)
        self._keep_repository(run.info.run_id, run.info.artifact_uri)
        return run

    def set_terminated(self, run_id: str, status: str, end_ms: int | None) -> None:
        """End a run; MLflow's client would request the run as well, to print its address."""
        from mlflow.entities import RunStatus

        status_code = RunStatus.from_string(status)
        self._store.update_run_info(run_id, status_code, end_ms or int(time.time() * 1000), None)

    def points(self, run_id: str, names: Sequence[str]) -> Iterator[Points]:
        """Yield the points page by page: MLflow's client would return all pages at once."""
        for name in names:
            token: str | None = None
            while True:
                page = self._store.get_metric_history(run_id, name, PAGE_POINTS, token)
                yield points_of(name, page)
                token = page.token
                if not token:
                    break
