"""A W&B sweep from Flyte: its trials are runs in W&B, and nested below one run in MLflow.

It needs a W&B account or server (WANDB_API_KEY, maybe WANDB_BASE_URL):

    flyte run --local examples/flyte_sweep.py search --trials 4
"""

from __future__ import annotations

import flyte
import wandb

from mlflow_wandb_flyte import (
    get_wandb_run,
    get_wandb_sweep_id,
    wandb_init,
    wandb_sweep,
    wandb_sweep_config,
)

env = flyte.TaskEnvironment(name="sweep")


@wandb_init
def objective() -> None:
    """One trial; W&B gives it its parameters."""
    run = get_wandb_run()
    run.log({"loss": (run.config["lr"] - 0.3) ** 2})


@wandb_sweep(project="flyte-example")
@env.task
def agents(trials: int) -> str:
    """The task that has the sweep, and here its only agent."""
    wandb.agent(get_wandb_sweep_id(), objective, project="flyte-example", count=trials)
    return str(get_wandb_sweep_id())


@env.task
async def search(trials: int = 4) -> str:
    """Describes the sweep for the tasks inside the block."""
    values = [step / 10 for step in range(1, 6)]
    with wandb_sweep_config(
        method="grid",
        metric={"name": "loss", "goal": "minimize"},
        parameters={"lr": {"values": values}},
    ):
        return await agents.aio(trials)
