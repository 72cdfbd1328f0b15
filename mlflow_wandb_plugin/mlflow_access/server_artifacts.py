"""Artifacts that a tracking server keeps, uploaded without importing what MLflow's models need."""

from __future__ import annotations

import mimetypes
import os
import posixpath

from mlflow.environment_variables import MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE
from mlflow.store.artifact.artifact_repo import verify_artifact_path
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.utils.request_utils import augmented_raise_for_status
from mlflow.utils.rest_utils import http_request

_UNKNOWN_TYPE = "application/octet-stream"


class ServerArtifacts(MlflowArtifactsRepository):
    """MLflow's repository. Its own upload imports all of MLflow to find out whether a file is text,
    which the server does not ask for."""

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Upload a file; a large one in MLflow's way, which may send it in parts."""
        large: int = MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE.get()  # type: ignore[no-untyped-call]
        if os.path.getsize(local_file) >= large:
            super().log_artifact(local_file, artifact_path)  # type: ignore[no-untyped-call]
            return
        verify_artifact_path(artifact_path)  # type: ignore[no-untyped-call]
        name = os.path.basename(local_file)
        kind = mimetypes.guess_type(name)[0] or _UNKNOWN_TYPE
        with open(local_file, "rb") as file:
            response = http_request(  # type: ignore[no-untyped-call]
                self._host_creds,
                posixpath.join("/", artifact_path or "", name),
                "PUT",
                data=file,
                extra_headers={"Content-Type": kind},
            )
            augmented_raise_for_status(response)  # type: ignore[no-untyped-call]
