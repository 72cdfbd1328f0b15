"""The endpoints that come with the package, offered through the same hooks as anybody's."""

from __future__ import annotations

import os
from pathlib import Path

from mlflow_wandb_plugin.endpoints.base import Source, Target
from mlflow_wandb_plugin.hookspecs import hookimpl


@hookimpl
def open_source(uri: str) -> Source | None:
    """W&B servers, archives, local W&B folders and files."""
    if uri.startswith(("wandb://", "wandb+https://", "wandb+http://")):
        from mlflow_wandb_plugin.endpoints.wandb_server import open_wandb_server

        return open_wandb_server(uri)
    if uri.startswith("archive:"):
        from mlflow_wandb_plugin.endpoints.archive import open_archive

        return open_archive(uri)
    path = Path(uri.removeprefix("file://"))
    if "://" in uri.removeprefix("file://") or not path.exists():
        return None
    from mlflow_wandb_plugin.endpoints.wandb_dir import WandbDir

    return WandbDir(path)


@hookimpl(trylast=True)
def open_target(uri: str, experiment: str) -> Target | None:
    """An archive, or any MLflow tracking URI."""
    if uri.startswith("archive:"):
        from mlflow_wandb_plugin.endpoints.archive import create_archive

        return create_archive(uri)
    from mlflow_wandb_plugin.endpoints.mlflow import MlflowTarget
    from mlflow_wandb_plugin.endpoints.mlflow_client import check_reachable

    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    check_reachable(uri)
    return MlflowTarget(uri or None, experiment)
