"""The sources and targets that come with the package, offered through the same hooks as others."""

from __future__ import annotations

import os
from pathlib import Path

from mlflow_wandb_plugin.core.protocols import Source, SourceOptions, Target, TargetOptions
from mlflow_wandb_plugin.hookspecs import hookimpl


@hookimpl
def open_source(uri: str, options: SourceOptions) -> Source | None:
    """Open a W&B server, an archive, or a local W&B folder or file."""
    if uri.startswith(("wandb://", "wandb+https://", "wandb+http://")):
        from mlflow_wandb_plugin.sources.wandb_server.source import open_wandb_server

        return open_wandb_server(uri, options)
    if uri.startswith("archive:"):
        from mlflow_wandb_plugin.archive.target import open_archive

        return open_archive(uri)
    path = Path(uri.removeprefix("file://"))
    if "://" in uri.removeprefix("file://") or not path.exists():
        return None
    from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir

    return WandbDir(path, options.follow_links, options.recursive)


@hookimpl(trylast=True)
def open_target(uri: str, options: TargetOptions) -> Target | None:
    """Open an archive, or any MLflow tracking URI."""
    if uri.startswith("archive:"):
        from mlflow_wandb_plugin.archive.target import create_archive

        return create_archive(uri, options)
    from mlflow_wandb_plugin.targets.mlflow.client import check_reachable
    from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget

    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    check_reachable(uri)
    return MlflowTarget(uri or None, options)
