"""Opens the artifact repository that an MLflow artifact URI names."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

KEPT_BY_SERVER = "mlflow-artifacts:"
"""Begins the URI of artifacts that a tracking server keeps."""


def open_repository(uri: str, tracking_uri: str) -> ArtifactRepository | None:
    """Open the repository of an artifact URI; None if MLflow would open another server's."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if "tracking_uri" in inspect.signature(get_artifact_repository).parameters:
        return get_artifact_repository(uri, tracking_uri=tracking_uri)
    # MLflow 3.1.0 looks for artifacts that a server keeps on the process's own server.
    return None if uri.startswith(KEPT_BY_SERVER) else get_artifact_repository(uri)
