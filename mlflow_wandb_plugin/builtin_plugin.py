"""The sources and targets that come with the package, offered through the same hooks as others."""

from __future__ import annotations

import os
from pathlib import Path

from mlflow_wandb_plugin.core.absent_target import AbsentTarget
from mlflow_wandb_plugin.core.protocols import Source, SourceOptions, Target, TargetOptions
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.core.tracking_uri import names_mlflow
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.hookspecs import hookimpl

WANDB_SCHEMES = ("wandb://", "wandb+https://", "wandb+http://")


@hookimpl
def open_source(uri: str, options: SourceOptions) -> Source | None:
    """Open a W&B server, an archive, an MLflow store, or a local W&B folder or file."""
    if uri.startswith(WANDB_SCHEMES):
        from mlflow_wandb_plugin.sources.wandb_server.opening import open_wandb_server

        return open_wandb_server(uri, options)
    if uri.startswith("archive:"):
        from mlflow_wandb_plugin.archive.target import open_archive

        return open_archive(uri)
    if names_mlflow(uri):
        from mlflow_wandb_plugin.sources.mlflow.opening import open_mlflow

        return open_mlflow(uri, options)
    path = Path(uri.removeprefix("file://"))
    if "://" in uri.removeprefix("file://") or not path.exists():
        return None
    from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir

    return WandbDir(path, options.follow_links, options.recursive)


@hookimpl(trylast=True)
def open_target(uri: str, options: TargetOptions) -> Target | None:
    """Open an archive, a W&B server, a folder of offline runs, or any MLflow tracking URI."""
    if uri.startswith("archive:"):
        from mlflow_wandb_plugin.archive.target import create_archive, is_archive, path_of

        exists = options.create or is_archive(path_of(uri).resolve())
        return create_archive(uri, options) if exists else AbsentTarget(uri, comparable=False)
    if uri.startswith("offline:"):
        return _open_offline(uri, options)
    if uri.startswith(WANDB_SCHEMES):
        return _open_wandb(uri, options)
    _refuse_wandb(uri)
    from mlflow_wandb_plugin.targets.mlflow.client import check_reachable
    from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget

    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    check_reachable(uri)
    if not options.create:
        from mlflow_wandb_plugin.mlflow_access.existing_store import store_exists

        if not store_exists(uri):
            return _absent_mlflow(uri, options)
    return MlflowTarget(uri or None, options)


def _absent_mlflow(uri: str, options: TargetOptions) -> AbsentTarget:
    from mlflow_wandb_plugin.core.tracking_uri import ui_command
    from mlflow_wandb_plugin.mapping.to_mlflow import experiment_of

    return AbsentTarget(
        without_credentials(uri) or "MLflow's store",
        True,
        lambda info: experiment_of(options.experiment, info),
        ui_command(uri),
    )


def _open_offline(uri: str, options: TargetOptions) -> Target:
    from mlflow_wandb_plugin.targets.wandb.offline_target import SCHEME, OfflineTarget

    folder = uri.removeprefix(SCHEME).removeprefix("//")
    if not folder:
        raise UsageError(f"{uri} names no folder: write offline:DIR")
    root = Path(folder).expanduser()
    if not options.create and not root.is_dir():
        return AbsentTarget(uri, comparable=False)
    return OfflineTarget(root, options)


def _open_wandb(uri: str, options: TargetOptions) -> Target:
    from mlflow_wandb_plugin.sources.wandb_server.opening import open_project
    from mlflow_wandb_plugin.targets.wandb.server_target import WandbTarget
    from mlflow_wandb_plugin.wandb_api.address import target_address

    return WandbTarget(target_address(uri), options, open_project)


def _refuse_wandb(uri: str) -> None:
    """Raise a UsageError if ``uri`` names a store whose runs go back to W&B, or has the prefix of
    fast writes, which a backfill does not use."""
    if uri.startswith("fast+"):
        raise UsageError(
            f"{without_credentials(uri)} is for MLflow's own calls; what is carried here is "
            "written in bulk without it: leave fast+ out of --to"
        )
    if uri.startswith("wandb+"):
        raise UsageError(
            f"{without_credentials(uri)} leads to W&B, where the runs come from: "
            "leave wandb+ out of --to"
        )
