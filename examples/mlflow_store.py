"""MLflow code with `wandb+` before its tracking URI: what it logs goes to W&B, too.

    python examples/mlflow_store.py

W&B runs offline unless WANDB_MODE says otherwise: the runs are then folders below wandb/, which
`wandb sync` uploads.
"""

import os

os.environ.setdefault("WANDB_MODE", "offline")
# So that the W&B run is there when this script has ended, and not some seconds later.
os.environ.setdefault("MLFLOW_WANDB_MIRROR_WAIT", "60")

import mlflow

uri = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
mlflow.set_tracking_uri(f"wandb+{uri}")
mlflow.set_experiment("examples")

with mlflow.start_run(run_name="mlflow-store"):
    mlflow.log_param("learning_rate", 0.1)
    mlflow.set_tag("stage", "example")
    for step in range(20):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_text("20 steps", "notes.txt")
