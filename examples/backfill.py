"""History on disk: two W&B runs of the past come into MLflow, and a second backfill skips them.

    python examples/backfill.py

The runs are made here, offline, by plain wandb. With runs of your own the first part is left out.
"""

import os
import tempfile

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_DIR"] = history = tempfile.mkdtemp(prefix="wandb-history-")

import wandb

import mlflow_wandb_plugin

for learning_rate in (0.1, 0.3):
    with wandb.init(project="examples-of-the-past", config={"learning_rate": learning_rate}) as run:
        for step in range(20):
            run.log({"loss": (1 - learning_rate) ** step})

to = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
for turn in ("first", "second"):
    for outcome in mlflow_wandb_plugin.backfill(history, to):
        print(f"{turn}: {outcome.run.run_id} {outcome.action}, MLflow run {outcome.mlflow_run_id}")

for result in mlflow_wandb_plugin.verify(history, to):
    print(f"{result.run.run_id}: {result.result}")
