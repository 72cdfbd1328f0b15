"""Opens the artifact repository that an MLflow artifact URI names."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

KEPT_BY_SERVER = "mlflow-artifacts:"
"""Begins the URI of artifacts that a tracking server keeps."""


def open_repository(uri: str, tracking_uri: str) -> ArtifactRepository:
    """Open the repository of an artifact URI; it may be on the server of ``tracking_uri``."""
    if uri.startswith(KEPT_BY_SERVER):
        from mlflow_wandb_plugin.mlflow_access.server_artifacts import ServerArtifacts

        return ServerArtifacts(uri, tracking_uri)
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if "tracking_uri" in inspect.signature(get_artifact_repository).parameters:
        return get_artifact_repository(uri, tracking_uri=tracking_uri)
    return get_artifact_repository(uri)
