"""Run modes: children that share their parent's run, nest below it, or stand alone.

    WANDB_MODE=offline MLFLOW_TRACKING_URI=sqlite:///mlflow.db \
        flyte run --local examples/flyte_children.py family
"""

from __future__ import annotations

import asyncio

import flyte
import wandb

from mlflow_wandb_flyte import track, wandb_config

env = flyte.TaskEnvironment(name="children")


@track(run_mode="nested")
@env.task
async def fold(number: int) -> float:
    """A run of its own: below the parent's in MLflow, in its group in W&B."""
    loss = 1 / (number + 2)
    wandb.log({"loss": loss})
    return loss


@track
@env.task
async def family(folds: int = 2) -> float:
    """The folds run side by side; each logs into its own run."""
    with wandb_config(project="flyte-example", tags=["fold"]):
        losses = await asyncio.gather(*(fold(number) for number in range(folds)))
    mean = sum(losses) / len(losses)
    wandb.log({"mean_loss": mean})
    return mean
