"""Ray Tune: each trial is a run in W&B and in MLflow, below one parent run in MLflow.

    python examples/ray_tune.py

It needs `pip install 'mlflow-wandb-plugin[ray]'` and starts a Ray of two CPUs on this machine. W&B
runs offline unless WANDB_MODE says otherwise; MLflow is mlflow.db in the current folder unless
MLFLOW_TRACKING_URI says otherwise.
"""

import os
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "offline")
# An absolute path: Ray's workers run in folders of their own.
os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{Path('mlflow.db').absolute()}")

import ray
from ray import tune

from mlflow_wandb_ray import DualLoggerCallback


def train(config):
    """Minimise (w - 3)²."""
    weight = 0.0
    for _ in range(5):
        weight -= config["learning_rate"] * 2 * (weight - 3.0)
        tune.report({"loss": (weight - 3.0) ** 2})


ray.init(num_cpus=2, include_dashboard=False)
tuner = tune.Tuner(
    train,
    param_space={"learning_rate": tune.grid_search([0.1, 0.3])},
    run_config=tune.RunConfig(
        name="ray-tune",
        storage_path=str(Path("ray-results").absolute()),
        callbacks=[DualLoggerCallback(project="examples")],
    ),
)
best = tuner.fit().get_best_result(metric="loss", mode="min")
print(f"best learning rate: {best.config['learning_rate']}")
ray.shutdown()
