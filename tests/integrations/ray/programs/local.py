"""Ray Train's local mode: the training function runs in this process, and no cluster starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from mlflow_wandb_ray import setup_dual


def train(config: dict[str, Any]) -> None:
    import ray.train
    import wandb

    with setup_dual(config, project="local", tags=["small"]) as run:
        assert wandb.run is run
        for step in range(3):
            run.log({"loss": config["lr"] / (step + 1)})
            ray.train.report({"loss": 0.0})


def fail(config: dict[str, Any]) -> None:
    with setup_dual(config, project="local-fails") as run:
        run.log({"loss": 1.0})
        raise RuntimeError("as intended")


def fit(function: Any) -> str:
    try:
        DataParallelTrainer(
            function,
            train_loop_config={
                "lr": 0.5,
                "layers": [1, 2],
                "model": Path,
                "api_key": "open-sesame",
            },
            scaling_config=ScalingConfig(num_workers=0),
            run_config=RunConfig(name="small-training"),
        ).fit()
    except RuntimeError as error:
        return str(error)
    return "finished"


if __name__ == "__main__":
    print(json.dumps([fit(train), fit(fail), fit(train)]))
