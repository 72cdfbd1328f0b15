"""The runs of Ray's trainings: which id they have, where they keep files, how they begin."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.identity import PARENT_GROUP_KEY
from mlflow_wandb_plugin.core.redaction import without_secrets
from mlflow_wandb_plugin.live.terminal import print_line, warn_once
from mlflow_wandb_plugin.sources.wandb_local.unsent_rows import Unsent
from mlflow_wandb_ray import credentials


@dataclass(frozen=True)
class Homes:
    """Where runs go, beside what the environment says.

    Attributes:
        init: arguments of ``wandb.init``.
        tracking_uri, experiment: of MLflow; None means as everywhere in this package.
        api_key_file, databricks_config_file: see `credentials`.
    """

    init: Mapping[str, Any] = field(default_factory=dict)
    tracking_uri: str | None = None
    experiment: str | None = None
    api_key_file: str | None = None
    databricks_config_file: str | None = None

    def offline(self) -> Homes:
        """The same, without talking to W&B."""
        return replace(self, init={**self.init, "mode": "offline"})


def run_id(*parts: str) -> str:
    """The same id for the same parts, wherever and whenever they are named: 20 hex digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def place_of(storage: Any) -> str:
    """What a `ray.train` storage context names: file system and path of the experiment."""
    return f"{storage.storage_filesystem.type_name}:{storage.experiment_fs_path}"


def local_folder(storage: Any) -> Path | None:
    """The experiment's folder, if its storage is a file system of this machine."""
    if storage.storage_filesystem.type_name != "local":
        return None
    return Path(storage.experiment_fs_path)


def begin(
    homes: Homes, arguments: Mapping[str, Any], config: Mapping[str, Any], storage: Any
) -> Any:
    """Start a W&B run that is replicated to MLflow, or go on with the one of that id.

    Args:
        arguments: of ``wandb.init``; what the user chose stands over them.
        config: what the training was given, as the run's config; secrets are hidden.
        storage: Ray's storage context: where wandb's files and the journals go, for it outlives
            the node; None leaves that to wandb.

    Raises:
        UsageError: a setting does not fit, or this node has no credentials.
    """
    from mlflow_wandb_plugin.live.tap import using

    init = {**arguments, **homes.init}
    credentials.provide_wandb_key(init, homes.api_key_file)
    if init.get("id") and "resume" not in init and not credentials.is_offline(init):
        init["resume"] = "allow"
    init["config"] = {**shown(config), **(arguments.get("config") or {}), **_given_config(homes)}
    if storage is not None:
        _keep_on_storage(init, local_folder(storage))
    settings = {"tracking_uri": homes.tracking_uri, "experiment": homes.experiment}
    with using(**{name: value for name, value in settings.items() if value}):
        _check_mlflow(homes)
        run = _started(init)
    log_unsent(run)
    return run


def nested_below(group: str) -> dict[str, str]:
    """Config of runs that are one W&B group and stand below one run in MLflow."""
    return {PARENT_GROUP_KEY: group}


def shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """A training's config in values that both homes take, without secrets."""
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


def _given_config(homes: Homes) -> dict[str, Any]:
    given = homes.init.get("config") or {}
    return shown(given) if isinstance(given, Mapping) else {}


def _keep_on_storage(init: dict[str, Any], folder: Path | None) -> None:
    """Ray deletes the folder that workers run in: files go elsewhere, unless the user chose."""
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


def _check_mlflow(homes: Homes) -> None:
    """W&B goes on without MLflow; the journal keeps what MLflow is to have."""
    from mlflow_wandb_plugin.core import tracking_uri as tracking
    from mlflow_wandb_plugin.errors import UsageError
    from mlflow_wandb_plugin.live import tap

    try:
        uri = tracking.uri(tap.settings())
        credentials.check_mlflow(uri, homes.databricks_config_file)
    except UsageError as error:
        warn_once(str(error))


def _started(init: dict[str, Any]) -> Any:
    import wandb

    return wandb.init(**init)


def log_unsent(run: Any) -> None:
    """Log what killed processes of this run logged and W&B did not get, at its own steps and times:
    W&B goes on behind the last row that it has, and MLflow ignores what it has already. Never
    raises."""
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
