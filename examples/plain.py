"""A W&B script with one import changed: each run is in W&B and in MLflow.

    python examples/plain.py

W&B runs offline unless WANDB_MODE says otherwise; MLflow is mlflow.db in the current folder unless
MLFLOW_TRACKING_URI says otherwise.
"""

import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")

import mlflow_wandb_plugin.wandb as wandb  # instead of `import wandb`

config = {"learning_rate": 0.1, "steps": 50}
with wandb.init(project="examples", name="plain", config=config) as run:
    weight = 0.0
    for _ in range(config["steps"]):
        error = weight - 3.0
        weight -= config["learning_rate"] * 2 * error
        run.log({"loss": error**2, "weight": weight})
