"""Settings in a process that trains, which a malformed variable must not stop."""

from __future__ import annotations

from typing import Any

from mlflow_wandb_plugin.core.messages import log_once
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.settings import Settings


def load_settings(**arguments: Any) -> Settings:
    """As `Settings.load`; a variable whose value is malformed is shown once and left out.

    Raises:
        UsageError: an argument is unknown or malformed.
    """
    return Settings.load(malformed=_show, **arguments)


def _show(error: UsageError) -> None:
    log_once(f"{error}. The default is used")
