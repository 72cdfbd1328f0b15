"""Tags of the MLflow runs that are started while a W&B run is open in the process.

MLflow loads this class while it is being imported and asks it before each ``mlflow.start_run``. It
imports no wandb: without wandb in the process, no W&B run is open.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.messages import log_once
from mlflow_wandb_plugin.core.partial_import import is_partial

_inherited: Any = None
"""The W&B run that was open when this process was forked: its parent writes that run's config."""


class WandbRunContext:
    """Names the open W&B run. MLflow asks for the methods of its `RunContextProvider`, and for no
    class: this module imports nothing of MLflow."""

    def in_context(self) -> bool:
        return _open_run() is not None

    def tags(self) -> dict[str, str]:
        run = _open_run()
        if run is None:
            return {}
        _wrap_create_run()
        tags = {
            identity.BESIDE_RUN_ID: run.id,
            identity.BESIDE_PROJECT: run.project,
            identity.BESIDE_ENTITY: run.entity,
        }
        return {key: str(value) for key, value in tags.items() if value}


def _open_run() -> Any:
    """wandb's current run; None if there is none, or it is a disabled one."""
    wandb = None if is_partial("wandb") else sys.modules.get("wandb")
    run = getattr(wandb, "run", None)
    return None if run is None or getattr(run, "disabled", False) else run


def _wrap_create_run() -> None:
    """Wrap once the method with which MLflow's client creates runs: only its result has the id."""
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

    client: Any = TrackingServiceClient
    original = client.create_run
    if getattr(original, "_mlflow_wandb_beside", False):
        return

    @functools.wraps(original)
    def create_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        created = original(self, *args, **kwargs)
        try:
            _name_in_config(created)
        except Exception as error:
            log_once(f"the W&B config does not name MLflow run {created.info.run_id}: {error}")
        return created

    wrapped: Any = create_run
    wrapped._mlflow_wandb_beside = True
    client.create_run = wrapped


def _name_in_config(created: Any) -> None:
    """Let the config of the open W&B run name an MLflow run that was created beside it."""
    run = _open_run()
    if run is None or run is _inherited:
        return
    if created.data.tags.get(identity.BESIDE_RUN_ID) != run.id:
        return
    key = identity.BESIDE_CONFIG_KEY
    known = run.config.get(key)
    named = [*(known if isinstance(known, list) else ()), created.info.run_id]
    run.config.update({key: named}, allow_val_change=True)


def _after_fork() -> None:
    global _inherited
    _inherited = _open_run()


os.register_at_fork(after_in_child=_after_fork)
