"""Tasks that fail, are retried or cancelled, under ``flyte run --local``."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import flyte
import mlflow
import wandb
from flyte.errors import RuntimeUserError

from mlflow_wandb_flyte import get_mlflow_run, mlflow_run, track, wandb_init

env = flyte.TaskEnvironment(name="failing")
quick = flyte.RetryStrategy(count=2, backoff=flyte.Backoff(base=timedelta(milliseconds=1)))
ids: dict[str, list[str]] = {}


def remember(name: str) -> int:
    """Notes the ids of the runs; returns the number of the attempt, from 1."""
    active = mlflow.active_run()
    found = ids.setdefault(name, [])
    found.append(str(wandb.run.id) if wandb.run else active.info.run_id)
    return len(found)


@wandb_init(project="fails")
@env.task
async def fails() -> None:
    remember("fails")
    wandb.log({"x": 1})
    raise ValueError("no")


@wandb_init(project="fails")
@env.task
def fails_sync() -> None:
    remember("fails sync")
    wandb.log({"x": 1})
    raise ValueError("no")


@mlflow_run(experiment_name="fails")
@env.task
def fails_in_mlflow() -> None:
    remember("fails in MLflow")
    mlflow.log_metric("x", 1)
    raise ValueError("no")


@track(project="cancelled")
@env.task
async def waits() -> None:
    remember("cancelled")
    wandb.log({"x": 1})
    await asyncio.sleep(600)


@mlflow_run(run_mode="new", experiment_name="cancelled")
@env.task
async def waits_in_mlflow() -> None:
    remember("cancelled in MLflow")
    await asyncio.sleep(600)


@env.task
async def cancels() -> None:
    waiting = [asyncio.create_task(waits()), asyncio.create_task(waits_in_mlflow())]
    while not {"cancelled", "cancelled in MLflow"} <= set(ids):
        await asyncio.sleep(0.05)
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)


@track(project="retried")
@env.task(retries=quick)
def retried() -> None:
    attempt = remember("retried")
    wandb.log({"attempt": attempt})
    if attempt < 3:
        raise ValueError("again")


@mlflow_run(experiment_name="retried")
@env.task(retries=quick)
def retried_in_mlflow() -> None:
    attempt = remember("retried in MLflow")
    mlflow.log_metric("attempt", attempt, step=attempt)
    if attempt < 2:
        raise ValueError("again")


@wandb_init(run_mode="new", project="child")
@env.task
def child_fails() -> None:
    remember("child")
    raise ValueError("no")


@wandb_init(project="caught")
@env.task
async def catches() -> None:
    remember("catches")
    try:
        await child_fails.aio()
    except RuntimeUserError:
        wandb.log({"caught": 1})
    assert get_mlflow_run() is None


def run(task: Any) -> str:
    try:
        flyte.with_runcontext(mode="local").run(task)
    except Exception as error:
        return str(error)
    return "succeeded"


if __name__ == "__main__":
    flyte.init()
    said: dict[str, Any] = {}
    for task in (fails, fails_sync, fails_in_mlflow, cancels, retried, retried_in_mlflow, catches):
        said[task.short_name] = run(task)
    print(json.dumps({"said": said, "ids": ids, "here": str(Path.cwd())}))
