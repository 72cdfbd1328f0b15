"""Start the runs of Ray's trainings: their ids, folders and arguments."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.identity import CALLS_CONFIG_KEY
from mlflow_wandb_plugin.core.redaction import without_secrets
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.mapping.to_wandb import project_name
from mlflow_wandb_ray import credentials


@dataclass(frozen=True)
class Destination:
    """Where runs are logged, in addition to the environment's settings.

    Attributes:
        init: arguments of ``wandb.init``.
        settings: of this package; those that are None are left out.
        tags: of the MLflow run.
        api_key, api_key_file, databricks_config_file: see `credentials`.
    """

    init: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = None
    api_key_file: str | None = None
    databricks_config_file: str | None = None

    def offline(self) -> Destination:
        """Return a copy that does not connect to W&B."""
        return replace(self, init={**self.init, "mode": "offline"})

    def provide_key(self) -> None:
        """Make sure that this process has W&B's key; see `credentials.provide_wandb_key`."""
        credentials.provide_wandb_key(self.init, self.api_key, self.api_key_file)


def run_id(*parts: str) -> str:
    """Return a run id of 20 hex digits that is the same for the same parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def storage_path(storage: Any) -> str:
    """Return the file system and experiment path of a `ray.train` storage context."""
    return f"{storage.storage_filesystem.type_name}:{storage.experiment_fs_path}"


def local_folder(storage: Any) -> Path | None:
    """Return the experiment's folder if its storage is a local file system, else None."""
    local = storage.storage_filesystem.type_name == "local"
    return Path(storage.experiment_fs_path) if local else None


def begin(
    destination: Destination,
    arguments: Mapping[str, Any],
    config: Mapping[str, Any],
    storage: Any,
    several: bool = False,
) -> Any:
    """Start or resume a W&B run that is replicated to MLflow.

    Args:
        arguments: of ``wandb.init``; those of ``destination`` take precedence.
        config: the training's config, logged as the run's config without secrets.
        storage: Ray's storage context, in which wandb's files and the journals are kept because it
            outlives the node; None leaves the folder to wandb.
        several: other runs of this process may be open at the same time.

    Raises:
        UsageError: a setting does not fit, or this node has no credentials.
    """
    import wandb
    from ray.air.integrations.wandb import _run_wandb_process_run_info_hook

    from mlflow_wandb_plugin.live.tap import tap_of, using

    init = {**arguments, **destination.init, **({"reinit": "create_new"} if several else {})}
    destination.provide_key()
    if init.get("id") and "resume" not in init and not credentials.is_offline(init):
        init["resume"] = "allow"
    init["config"] = _config(destination, arguments, config)
    init["project"] = project_of(init)
    if storage is not None:
        _keep_on_storage(init, local_folder(storage))
    settings = {name: value for name, value in destination.settings.items() if value is not None}
    with using(**settings):
        _check_mlflow(destination)
        run = wandb.init(**init)
    tap = tap_of(run)
    if destination.tags and tap is not None and tap.calls is not None:
        # The replica is MLflow's active run: what the config says of tags was replaced.
        import mlflow

        mlflow.set_tags(dict(destination.tags))
    _run_wandb_process_run_info_hook(run)
    return run


def project_of(init: Mapping[str, Any], experiment: str | None = None) -> str | None:
    """Return W&B's project: the argument, ``WANDB_PROJECT_NAME``, that of Ray's hook,
    ``WANDB_PROJECT``, or one named as MLflow's experiment."""
    from ray.air.integrations.wandb import _get_wandb_project

    project = _get_wandb_project(init.get("project")) or os.environ.get("WANDB_PROJECT")
    return project or (project_name("{experiment}", experiment) if experiment else None)


def group_of(init: Mapping[str, Any], default: str | None = None) -> str | None:
    """Return W&B's group: the argument, ``WANDB_GROUP_NAME``, or the default."""
    return init.get("group") or os.environ.get("WANDB_GROUP_NAME") or default


def _config(
    destination: Destination, arguments: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    given = destination.init.get("config") or {}
    users = shown(given) if isinstance(given, Mapping) else {}
    tags = {str(key): str(value) for key, value in destination.tags.items()}
    calls = {CALLS_CONFIG_KEY: {"tags": without_secrets(tags)}} if tags else {}
    return {**shown(config), **(arguments.get("config") or {}), **users, **calls}


def shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a training's config to values that both W&B and MLflow accept, without secrets."""
    return without_secrets({str(key): _plain(value) for key, value in config.items()})


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(below) for below in value]
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "size", None) == 1:
        return item()
    return getattr(value, "__qualname__", None) or str(value)


def _keep_on_storage(init: dict[str, Any], folder: Path | None) -> None:
    """Keep wandb's files on the storage, because Ray deletes the working folder of workers."""
    if init.get("dir") or os.environ.get("WANDB_DIR"):
        return
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        init["dir"] = str(folder)
    elif credentials.is_offline(init):
        warn_once(
            f"the storage path is no folder of node {socket.gethostname()}: the offline run and "
            "its journal stay on this node's disk; pass dir= or set WANDB_DIR to shared storage"
        )


def _check_mlflow(destination: Destination) -> None:
    """Warn if MLflow is not configured here; W&B works, and the journal keeps MLflow's part."""
    from mlflow_wandb_plugin.core import tracking_uri
    from mlflow_wandb_plugin.live import tap

    try:
        uri = tracking_uri.uri(tap.settings())
        credentials.check_mlflow(uri, destination.databricks_config_file)
    except UsageError as error:
        warn_once(str(error))
