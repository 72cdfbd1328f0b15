"""A task, in a container or in a local run, that is told to end while it works; it says when it
does. Argument: ``container`` or ``local``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import flyte
import mlflow
import wandb

from mlflow_wandb_flyte import mlflow_run, wandb_init
from tests.integrations.flyte.programs.container import in_container

env = flyte.TaskEnvironment(name="terminated")


@mlflow_run(run_mode="new", experiment_name="terminated")
@wandb_init(project="terminated")
@env.task
def works() -> None:
    wandb.log({"x": 1})
    mlflow.log_metric("y", 2)
    (Path(os.environ["WANDB_DIR"]) / "works").touch()
    time.sleep(600)


if __name__ == "__main__":
    if sys.argv[1] == "local":
        flyte.init()
        flyte.with_runcontext(mode="local").run(works)
    else:
        in_container(works, "run", "a")
