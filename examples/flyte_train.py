"""A task whose run lives in both homes, and a child that shares it.

    WANDB_MODE=offline MLFLOW_TRACKING_URI=sqlite:///mlflow.db \
        flyte run --local examples/flyte_train.py train --epochs 3
"""

from __future__ import annotations

import flyte
import mlflow
import wandb

from mlflow_wandb_flyte import get_mlflow_run, get_wandb_run, track, wandb_init

env = flyte.TaskEnvironment(name="train")


@wandb_init
@env.task
async def evaluate(loss: float) -> float:
    """Logs into the parent's run."""
    accuracy = 1 - loss
    wandb.log({"accuracy": accuracy})
    return accuracy


@track(project="flyte-example", config={"learning_rate": 0.1})
@env.task
async def train(epochs: int = 3) -> str:
    """What is logged to W&B is in MLflow, too; MLflow's own calls land in the same MLflow run."""
    loss = 1.0
    for epoch in range(epochs):
        loss = 1 / (epoch + 2)
        get_wandb_run().log({"loss": loss})
    mlflow.log_text(f"{epochs} epochs", "notes.txt")
    await evaluate(loss)
    return f"W&B {get_wandb_run().id}, MLflow {get_mlflow_run().info.run_id}"
