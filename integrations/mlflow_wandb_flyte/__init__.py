"""Flyte tasks whose runs are in both Weights & Biases and MLflow.

Replaces ``flyteplugins.wandb`` and ``flyteplugins.mlflow``: it offers the names of both.
"""

from __future__ import annotations

from typing import Any

import flyte
import wandb

from mlflow_wandb_flyte import keys
from mlflow_wandb_flyte.context import (
    RankScope,
    RunMode,
    get_mlflow_context,
    get_wandb_context,
    get_wandb_sweep_context,
    mlflow_config,
    wandb_config,
    wandb_sweep_config,
)
from mlflow_wandb_flyte.decorators import mlflow_run, track, wandb_init, wandb_sweep
from mlflow_wandb_flyte.distributed import get_distributed_info
from mlflow_wandb_flyte.download import (
    download_wandb_run_dir,
    download_wandb_run_logs,
    download_wandb_sweep_dirs,
    download_wandb_sweep_logs,
)
from mlflow_wandb_flyte.links import Mlflow, Wandb, WandbSweep
from mlflow_wandb_flyte.mlflow_session import get_mlflow_run
from mlflow_wandb_flyte.sweep import get_wandb_sweep_id
from mlflow_wandb_flyte.wandb_session import is_run_of_a_task

__all__ = [
    "Mlflow",
    "RankScope",
    "RunMode",
    "Wandb",
    "WandbSweep",
    "download_wandb_run_dir",
    "download_wandb_run_logs",
    "download_wandb_sweep_dirs",
    "download_wandb_sweep_logs",
    "get_distributed_info",
    "get_mlflow_context",
    "get_mlflow_run",
    "get_wandb_context",
    "get_wandb_run",
    "get_wandb_run_dir",
    "get_wandb_sweep_context",
    "get_wandb_sweep_id",
    "mlflow_config",
    "mlflow_run",
    "track",
    "wandb_config",
    "wandb_init",
    "wandb_sweep",
    "wandb_sweep_config",
]


def get_wandb_run() -> Any:
    """Return the W&B run of the running task or trace; outside of one, wandb's current run.

    None if there is no run, as in a process of a distributed task that does not log, or in a task
    without a decorator: the run of the task that called it is not its own.
    """
    run = (flyte.ctx().data or {}).get(keys.WANDB_RUN)
    if run is not None:
        return run
    return None if flyte.ctx() and is_run_of_a_task(wandb.run) else wandb.run


def get_wandb_run_dir() -> str | None:
    """Return the local folder of the current run's files, or None."""
    return None if (run := get_wandb_run()) is None else str(run.dir)
