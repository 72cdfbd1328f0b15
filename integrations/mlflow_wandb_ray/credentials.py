"""Find credentials in this node's environment or in a file.

They are never sent through Ray, which logs the variables of a ``runtime_env`` in plain text.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.errors import UsageError

KEY_FILE_VARIABLE = "WANDB_API_KEY_FILE"
KEY_HOOK_VARIABLE = "WANDB_SETUP_API_KEY_HOOK"
DATABRICKS_FILE_VARIABLE = "DATABRICKS_CONFIG_FILE"
OFFLINE_MODES = ("offline", "dryrun", "disabled")


class NoKeyError(UsageError, ValueError):
    """There is no W&B API key on this node, or two."""


def provide_wandb_key(
    init: Mapping[str, Any], key: str | None = None, key_file: str | None = None
) -> None:
    """Make sure that ``wandb.init`` finds an API key in this process.

    The order is Ray's: the arguments, ``WANDB_API_KEY``, ``WANDB_API_KEY_FILE``, what ``wandb
    login`` has left on this node, and the function that ``WANDB_SETUP_API_KEY_HOOK`` names.

    Args:
        init: arguments of ``wandb.init``; an offline run needs no key.
        key: the key.
        key_file: a file that holds the key.

    Raises:
        NoKeyError: there is no key on this node; the message says what to do, in one line.
    """
    if is_offline(init):
        return
    if key and key_file:
        raise NoKeyError("both api_key and api_key_file are given: pass one of them")
    if not (key or key_file) and os.environ.get("WANDB_API_KEY"):
        return
    file = None if key else key_file or os.environ.get(KEY_FILE_VARIABLE)
    key = _key_in(Path(file).expanduser()) if file else key
    key = key or (None if _is_logged_in() else _key_of_hook())
    if key:
        os.environ["WANDB_API_KEY"] = key


def _is_logged_in() -> bool:
    from mlflow_wandb_plugin.wandb_api.address import default_server, find_api_key

    try:
        find_api_key(default_server())
    except UsageError:
        return False
    return True


def _key_of_hook() -> str:
    from ray._common.utils import load_class

    from mlflow_wandb_plugin.wandb_api.address import default_server

    if os.environ.get(KEY_HOOK_VARIABLE):
        return str(load_class(os.environ[KEY_HOOK_VARIABLE])())
    raise NoKeyError(
        f'no W&B API key for {default_server()} on node {socket.gethostname()} (wandb: "api_key '
        'not configured"): set WANDB_API_KEY in the environment that `ray start` has on every '
        f"node, or put the key in a file that all nodes can read and set {KEY_FILE_VARIABLE} "
        "or pass api_key_file=; `wandb login` on the head node reaches the head node only"
    )


def check_mlflow(tracking_uri: str, config_file: str | None = None) -> None:
    """Make sure that MLflow can reach Databricks, if that is its server.

    Args:
        tracking_uri: MLflow's tracking URI.
        config_file: the file that ``databricks configure`` wrote.

    Raises:
        UsageError: this node is not configured; the message says what to do, in one line.
    """
    if config_file:
        os.environ[DATABRICKS_FILE_VARIABLE] = str(Path(config_file).expanduser())
    if not tracking_uri.startswith("databricks") or os.environ.get("DATABRICKS_HOST"):
        return
    file = Path(os.environ.get(DATABRICKS_FILE_VARIABLE) or "~/.databrickscfg").expanduser()
    if not file.is_file():
        raise UsageError(
            f"no Databricks configuration on node {socket.gethostname()}: {file} does not exist "
            '(Databricks: "You haven\'t configured the CLI yet!"); move the file that '
            "`databricks configure` wrote to shared storage and set "
            f"{DATABRICKS_FILE_VARIABLE} on every node, or pass databricks_config_file="
        )


def is_offline(init: Mapping[str, Any]) -> bool:
    """Whether a run with these arguments of ``wandb.init`` is offline."""
    if os.environ.get("MLFLOW_WANDB_HOMES") == "mlflow":
        return True
    return (init.get("mode") or os.environ.get("WANDB_MODE")) in OFFLINE_MODES


def _key_in(file: Path) -> str:
    try:
        key = file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError as error:
        raise NoKeyError(
            f"the W&B key file {file} cannot be read on node {socket.gethostname()} "
            f"({error.strerror}): put it where all nodes see it"
        ) from None
    if not key:
        raise NoKeyError(f"the W&B key file {file} is empty")
    return key
