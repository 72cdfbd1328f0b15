"""PyTorch: a small network learns the sign of a sum; gradients and the model go along.

    python examples/pytorch.py

It needs torch. W&B runs offline unless WANDB_MODE says otherwise; MLflow is mlflow.db in the
current folder unless MLFLOW_TRACKING_URI says otherwise.
"""

import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")

import torch

import mlflow_wandb_plugin.wandb as wandb

torch.manual_seed(0)
config = {"learning_rate": 0.05, "epochs": 5, "hidden": 16}
inputs = torch.randn(256, 4)
wanted = (inputs.sum(1, keepdim=True) > 0).float()
model = torch.nn.Sequential(
    torch.nn.Linear(4, config["hidden"]), torch.nn.ReLU(), torch.nn.Linear(config["hidden"], 1)
)
optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
cost = torch.nn.BCEWithLogitsLoss()

with wandb.init(project="examples", name="pytorch", config=config) as run:
    run.watch(model, log="gradients", log_freq=1)
    for epoch in range(config["epochs"]):
        optimizer.zero_grad()
        logits = model(inputs)
        loss = cost(logits, wanted)
        loss.backward()
        optimizer.step()
        accuracy = ((logits > 0) == (wanted > 0.5)).float().mean()
        run.log({"epoch": epoch, "loss": loss, "accuracy": accuracy})
    torch.save(model.state_dict(), "model.pt")
    artifact = wandb.Artifact("sign-of-sum", type="model")
    artifact.add_file("model.pt")
    run.log_artifact(artifact)
