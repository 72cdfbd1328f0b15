"""A decorator on a training function: each call is a run in W&B and in MLflow.

    python examples/decorator.py

W&B runs offline unless WANDB_MODE says otherwise; MLflow is mlflow.db in the current folder unless
MLFLOW_TRACKING_URI says otherwise.
"""

import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")

import wandb

from mlflow_wandb_plugin import dual_write


@dual_write(project="examples", group="decorator")
def train(learning_rate: float) -> float:
    """Minimise (w - 3)² and return the last loss. An exception would end the run as FAILED."""
    wandb.config.update({"learning_rate": learning_rate})
    weight = loss = 0.0
    for _ in range(20):
        loss = (weight - 3.0) ** 2
        weight -= learning_rate * 2 * (weight - 3.0)
        wandb.log({"loss": loss})
    return loss


if __name__ == "__main__":
    for learning_rate in (0.1, 0.3):
        print(f"learning rate {learning_rate}: loss {train(learning_rate):.5f}")
