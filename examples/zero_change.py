"""A script that knows W&B alone. It is not changed; the command before it adds MLflow.

export WANDB_MODE=offline MLFLOW_TRACKING_URI=sqlite:///mlflow.db
mlflow-wandb run -- python examples/zero_change.py
"""

import wandb

with wandb.init(project="examples", name="zero-change", config={"decay": 0.9}) as run:
    loss = 1.0
    for epoch in range(10):
        loss *= run.config["decay"]
        run.log({"epoch": epoch, "loss": loss})
    run.log({"table": wandb.Table(columns=["epoch", "loss"], data=[[9, loss]])})
