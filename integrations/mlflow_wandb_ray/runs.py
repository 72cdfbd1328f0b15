"""Start the runs of Ray's trainings: their ids, folders and arguments."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.redaction import without_secrets
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.live.terminal import print_line, warn_once
from mlflow_wandb_plugin.sources.wandb_local.unsent_rows import Unsent
from mlflow_wandb_ray import credentials


@dataclass(frozen=True)
class Destination:
    """Where runs are logged, in addition to the environment's settings.

    Attributes:
        init: arguments of ``wandb.init``.
        tracking_uri, experiment: of MLflow; None means the settings of this package.
        api_key_file, databricks_config_file: see `credentials`.
    """

    init: Mapping[str, Any] = field(default_factory=dict)
    tracking_uri: str | None = None
    experiment: str | None = None
    api_key_file: str | None = None
    databricks_config_file: str | None = None

    def offline(self) -> Destination:
        """Return a copy that does not connect to W&B."""
        return replace(self, init={**self.init, "mode": "offline"})


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
    destination: Destination, arguments: Mapping[str, Any], config: Mapping[str, Any], storage: Any
) -> Any:
    """Start or resume a W&B run that is replicated to MLflow.

    Args:
        arguments: of ``wandb.init``; those of ``destination`` take precedence.
        config: the training's config, logged as the run's config without secrets.
        storage: Ray's storage context, in which wandb's files and the journals are kept because it
            outlives the node; None leaves the folder to wandb.

    Raises:
        UsageError: a setting does not fit, or this node has no credentials.
    """
    import wandb

    from mlflow_wandb_plugin.live.tap import using

    init = {**arguments, **destination.init}
    credentials.provide_wandb_key(init, destination.api_key_file)
    if init.get("id") and "resume" not in init and not credentials.is_offline(init):
        init["resume"] = "allow"
    given = destination.init.get("config") or {}
    users = shown(given) if isinstance(given, Mapping) else {}
    init["config"] = {**shown(config), **(arguments.get("config") or {}), **users}
    if storage is not None:
        _keep_on_storage(init, local_folder(storage))
    settings = {"tracking_uri": destination.tracking_uri, "experiment": destination.experiment}
    with using(**{name: value for name, value in settings.items() if value}):
        _check_mlflow(destination)
        run = wandb.init(**init)
    log_unsent(run)
    return run


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


def log_unsent(run: Any) -> None:
    """Log the rows of killed processes that did not reach W&B, with their steps and times.

    W&B resumes after the last row that it has; MLflow ignores rows that it has already. Never
    raises.
    """
    try:
        if run.offline or not run.resumed:
            return
        unsent = Unsent(Path(run.dir).parent, run.id, run.starting_step)
        rows = unsent.rows()
        for step, row in rows:
            run.log(row, step=step, commit=True)
        unsent.forget()
    except Exception as error:
        warn_once(f"W&B may lack what a killed process logged: {error}")
        return
    if rows:
        print_line(f"{len(rows)} rows of a killed process are logged again: W&B did not have them")
