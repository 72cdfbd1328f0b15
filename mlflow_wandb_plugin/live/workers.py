"""Replicate the runs of workers that a process sends its functions to.

A function that refers to the wandb module is sent with that module's name: by cloudpickle, and so
by Ray. While the tap is installed, the module's pickle also installs the tap where it is loaded.
Processes that multiprocessing starts anew get the tap with their `multiprocessing.Process`.
"""

from __future__ import annotations

import dataclasses
import multiprocessing.process
from types import ModuleType
from typing import Any

from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.core.import_hook import when_imported
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.settings import Settings

_CONFIG_KEY = "mlflow_wandb"


def follow(wandb: Any, settings: Settings) -> None:
    """Have the tap installed wherever ``wandb`` or a new `multiprocessing.Process` is loaded.

    Args:
        settings: of this process. A tracking URI with credentials is not sent, nor MLflow's own.
    """
    uri = settings.tracking_uri
    sent = dataclasses.replace(settings, tracking_uri=uri if tracking_uri.shown(uri) == uri else "")
    _Wandb.sent = sent
    wandb.__class__ = _Wandb
    # multiprocessing copies it to each process that it makes.
    process: Any = multiprocessing.process.current_process()
    process._config[_CONFIG_KEY] = _Follower(sent)


class _Wandb(ModuleType):
    """The class of the wandb module while the tap is installed."""

    sent: Settings

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _wandb_of_worker, (self.sent,)


class _Follower:
    """Installs the tap in the process that unpickles it, once that imports wandb."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        when_imported("wandb", lambda _: _install(self._settings))


def _wandb_of_worker(settings: Settings) -> Any:
    import wandb

    _install(settings)
    return wandb


def _install(settings: Settings) -> None:
    from mlflow_wandb_plugin.live import tap

    try:
        if not tap.is_installed():
            tap.install(settings)
    except MlflowWandbError as error:
        warn_once(f"runs of this worker are not replicated to MLflow: {error}")
