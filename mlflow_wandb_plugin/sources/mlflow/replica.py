"""Runs that came from W&B, on their way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.sources.mlflow.run_description import run_info

if TYPE_CHECKING:
    from mlflow.entities import Run


def is_parent_of_replicas(run: Run) -> bool:
    """Whether the run is only the parent of a sweep's or a group's runs, which W&B has not."""
    return bool(run.data.tags.keys() & {identity.SWEEP, identity.PARENT_GROUP})


def described(run: Run, experiment: str, tracking_uri: str) -> RunInfo:
    """Describe a run as far as MLflow's entity has it."""
    return run_info(run, experiment, tracking_uri)
