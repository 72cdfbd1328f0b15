"""Plain Ray tasks and actors under ``@dual_write``. The last line of output is JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import ray

import mlflow_wandb_plugin.wandb as wandb_of_drop_in
from mlflow_wandb_plugin import dual_write
from tests.integrations.ray.programs.cluster import small_ray


@ray.remote
@dual_write(project="task", tags=["plain"])
def task(index: int) -> str:
    import wandb

    assert wandb.run is not None
    wandb.log({"index": index})
    return str(wandb.run.id)


@ray.remote
def holds_the_drop_in() -> str:
    """The module is a global of the function, and nothing else is imported."""
    with wandb_of_drop_in.init(project="drop-in") as run:
        run.log({"index": 7})
        return str(run.id)


@ray.remote
def logs_with_mlflow(uri: str) -> str:
    import mlflow

    mlflow.set_tracking_uri(f"wandb+{uri}")
    mlflow.set_experiment("mirrored")
    with mlflow.start_run() as run:
        mlflow.log_metric("index", 9.0, step=3)
    return str(run.info.run_id)


@ray.remote
def imports_wandb_itself() -> str:
    import wandb

    with wandb.init(project="by-hook") as run:
        run.log({"index": 8})
        return str(run.id)


@ray.remote(num_returns="streaming")
@dual_write(project="generator")
def generator(count: int) -> Any:
    import wandb

    for index in range(count):
        wandb.log({"index": index})
        yield index


@ray.remote(max_retries=0)
@dual_write(project="fails")
def fails() -> None:
    import wandb

    wandb.log({"index": 0})
    raise ValueError("as intended")


@ray.remote
class Trainer:
    def __init__(self) -> None:
        self.calls = 0

    @dual_write(project="actor", experiment="of an actor")
    def train(self, rows: int = 2) -> str:
        """An actor's method: each call is a run."""
        import wandb

        assert wandb.run is not None
        self.calls += 1
        for index in range(rows):
            wandb.log({"index": index, "call": self.calls})
        return str(wandb.run.id)


@ray.remote
class AsyncTrainer:
    @dual_write(project="async-actor")
    async def train(self) -> str:
        import wandb

        assert wandb.run is not None
        await asyncio.sleep(0)
        wandb.log({"index": 1})
        return str(wandb.run.id)


def main() -> None:
    if sys.argv[1:] == ["hook"]:
        with small_ray(runtime_env={"worker_process_setup_hook": "mlflow_wandb_plugin.autolog"}):
            said: dict[str, Any] = {"by-hook": ray.get(imports_wandb_itself.remote())}
        print(json.dumps(said))
        return
    with small_ray():
        trainer, async_trainer = Trainer.remote(), AsyncTrainer.remote()
        try:
            ray.get(fails.remote())
        except ValueError as error:
            failed = str(error.args[0]) if error.args else str(error)
        said = {
            "drop-in": ray.get(holds_the_drop_in.remote()),
            "mirrored": ray.get(logs_with_mlflow.remote(os.environ["MLFLOW_TRACKING_URI"])),
            "task": ray.get([task.remote(index) for index in range(2)]),
            "generator": [ray.get(one) for one in generator.remote(3)],
            "fails": "as intended" in failed,
            "actor": [ray.get(trainer.train.remote()), ray.get(trainer.train.remote(rows=3))],
            "async-actor": ray.get(async_trainer.train.remote()),
        }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
