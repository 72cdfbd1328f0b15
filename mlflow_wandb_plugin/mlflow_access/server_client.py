"""A client of a tracking server that needs only a part of MLflow, see `core.partial_import`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import FileInfo, LoggedModel, LoggedModelStatus, Metric, Param, RunTag
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.tracking._tracking_service.client import TrackingServiceClient

from mlflow_wandb_plugin.mlflow_access.repositories import open_repository


class ServerClient(TrackingServiceClient):
    """Does what `mlflow.MlflowClient` does for runs and logged models, under the same names.

    Its methods are those that ``MlflowClient`` itself calls, of MLflow 3.1 to 3.18; those below
    would import the rest of MLflow, or take less than ``MlflowClient``.
    """

    def __init__(self, tracking_uri: str) -> None:
        super().__init__(tracking_uri)  # type: ignore[no-untyped-call]
        self._tracking_client = self

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus | str) -> LoggedModel:
        """Set a model's status; also by its name, as ``MlflowClient`` allows."""
        return super().finalize_logged_model(model_id, LoggedModelStatus(status))

    def _get_artifact_repo(
        self, resource_id: str, *, resource: Literal["run", "logged_model"] = "run"
    ) -> ArtifactRepository:
        if resource == "run":
            uri = self.get_run(resource_id).info.artifact_uri  # type: ignore[no-untyped-call]
        else:
            uri = self.get_logged_model(resource_id).artifact_location
        return open_repository(uri, self.tracking_uri)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
        synchronous: bool = True,
    ) -> None:
        """Log a batch that is within MLflow's limits, and waits for the server."""
        self.store.log_batch(run_id, metrics, params, tags)

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[FileInfo]:
        """Return the files and folders in a folder of a run's artifacts."""
        found: list[FileInfo] = self._get_artifact_repo(run_id).list_artifacts(path)
        return found

    def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str:
        """Download a file or folder; returns where it is."""
        repository: Any = self._get_artifact_repo(run_id)
        return str(repository.download_artifacts(path, dst_path))

    def log_dict(self, run_id: str, dictionary: Mapping[str, Any], artifact_file: str) -> None:
        """Log a document as a JSON file, indented as ``MlflowClient`` does."""
        path = Path(artifact_file)
        folder = "" if str(path.parent) == "." else str(path.parent)
        with tempfile.TemporaryDirectory(prefix="mlflow-wandb-") as temporary:
            local = Path(temporary, path.name)
            local.write_text(json.dumps(dictionary, indent=2))
            self.log_artifact(run_id, str(local), folder or None)  # type: ignore[no-untyped-call]
