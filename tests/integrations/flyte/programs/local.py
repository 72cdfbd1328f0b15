"""Tasks under ``flyte run --local``; prints what each of them saw."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import flyte
import mlflow
import wandb

from mlflow_wandb_flyte import (
    get_mlflow_run,
    get_wandb_context,
    get_wandb_run,
    mlflow_config,
    mlflow_run,
    track,
    wandb_config,
    wandb_init,
)

env = flyte.TaskEnvironment(name="local")
said: dict[str, Any] = {}


def run(task: Any, *args: Any, context: Any = None) -> Any:
    runner = flyte.with_runcontext(mode="local", custom_context=dict(context or {}))
    return runner.run(task, *args).outputs()[0]


# -- a family ---------------------------------------------------------------------------------


@wandb_init
@env.task
async def shares(x: int) -> str:
    wandb.log({"shared": x})
    return str(get_wandb_run().id)


@wandb_init(run_mode="new", project="own")
@env.task
def own(x: int) -> str:
    wandb.log({"own": x})
    return str(wandb.run.id)


@wandb_init(run_mode="shared")
@env.task
def only_shares(x: int) -> str:
    get_wandb_run().log({"only_shared": x})
    return str(get_wandb_run().id)


@flyte.trace
async def traced(x: int) -> str:
    wandb.log({"traced": x})
    return str(get_wandb_run().id)


@wandb_init(project="family", config={"lr": 0.1})
@env.task
async def parent() -> list[str]:
    wandb.log({"before": 1})
    ids = [wandb.run.id, await shares(2), await only_shares.aio(3), await traced(4)]
    ids.append(await own.aio(5))
    wandb.log({"after": 6})
    return ids


@wandb_init(project="sync")
@env.task
def sync_parent() -> list[str]:
    get_wandb_run().log({"before": 1})
    return [get_wandb_run().id, only_shares(2), own(3)]


# -- siblings ---------------------------------------------------------------------------------


@track(run_mode="new")
@env.task
async def sibling(x: int) -> list[str]:
    for step in range(5):
        wandb.log({"mine": x})
        mlflow.log_metric("also", x, step=step)
        await asyncio.sleep(0.01)
    return [wandb.run.id, mlflow.active_run().info.run_id, str(x)]


@mlflow_run(run_mode="new", experiment_name="born-in-mlflow")
@env.task
async def mlflow_sibling(x: int) -> list[str]:
    for step in range(5):
        mlflow.log_metric("mine", x, step=step)
        await asyncio.sleep(0.01)
    return [get_mlflow_run().info.run_id, str(x)]


@wandb_init(project="siblings")
@env.task
async def siblings() -> dict[str, list[list[str]]]:
    both = await asyncio.gather(*(sibling(x) for x in range(3)))
    return {"track": both, "mlflow": await asyncio.gather(*(mlflow_sibling(x) for x in range(3)))}


# -- track ------------------------------------------------------------------------------------


@track(run_mode="nested")
@env.task
def below() -> str:
    wandb.log({"below": 1})
    return str(wandb.run.id)


@mlflow_run
@env.task
def mlflow_child() -> str:
    mlflow.log_metric("by_child", 7)
    return str(get_mlflow_run().info.run_id)


@track(project="tracked", experiment="tracked in MLflow", tags=["a"])
@env.task
def tracked() -> list[str]:
    wandb.log({"loss": 0.5})
    mlflow.log_metric("by_mlflow", 3)
    mlflow.log_text("hello", "note.txt")
    return [wandb.run.id, get_mlflow_run().info.run_id, mlflow_child(), below()]


@mlflow_run(tags={"team": "ml"})
@wandb_init(project="both")
@env.task
def both_decorators() -> list[str]:
    wandb.log({"loss": 0.5})
    mlflow.log_metric("by_mlflow", 3)
    return [wandb.run.id, get_mlflow_run().info.run_id]


# -- mlflow_run -------------------------------------------------------------------------------


@mlflow_run(run_mode="nested")
@env.task
async def mlflow_nested() -> str:
    mlflow.log_metric("nested", 1)
    return str(get_mlflow_run().info.run_id)


@mlflow_run(experiment_name="family")
@env.task
async def mlflow_parent() -> list[str]:
    mlflow.log_metric("parent", 1)
    ids = [mlflow.active_run().info.run_id, await mlflow_child.aio(), await mlflow_nested()]
    mlflow.log_metric("still_parent", 2)
    return ids


# -- configuration ----------------------------------------------------------------------------


@wandb_init
@env.task
def configured() -> list[str]:
    wandb.log({"x": 1})
    return [wandb.run.id, wandb.run.project]


@wandb_init(project="decorator")
@env.task
def decorated() -> list[str]:
    wandb.log({"x": 1})
    return [wandb.run.id, wandb.run.project]


@env.task
async def with_config() -> dict[str, Any]:
    with wandb_config(project="inside", tags=["t"], config={"deep": {"a": 1}}):
        inside = await configured.aio()
        context = get_wandb_context()
    after = get_wandb_context()
    return {"inside": inside, "context": context.tags, "after": after and after.project}


@wandb_init(project="overridden")
@env.task
def overridden() -> str:
    wandb.log({"x": 1})
    return str(wandb.run.id)


@env.task
async def overrides() -> str:
    return await overridden.override(short_name="other", retries=1).aio()


@wandb_init(project="plain")
def objective(x: int) -> str:
    wandb.log({"x": x})
    return str(wandb.run.id)


@wandb_init(project="plain")
async def async_objective(x: int) -> str:
    wandb.log({"x": x})
    return str(wandb.run.id)


@flyte.trace
@wandb_init
async def decorated_trace() -> int:
    return 1


@env.task
async def traces() -> int:
    return await decorated_trace()


def failure(task: Any) -> str:
    try:
        run(task, *((1,) if task is only_shares else ()))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    flyte.init()
    said["family"] = run(parent)
    said["sync family"] = run(sync_parent)
    said["siblings"] = run(siblings)
    said["tracked"] = run(tracked)
    said["both decorators"] = run(both_decorators)
    said["mlflow family"] = run(mlflow_parent, context=mlflow_config(tags={"who": "me"}))
    said["by context"] = run(configured, context=wandb_config(project="context", id="my-own-id"))
    said["by decorator"] = run(decorated, context=wandb_config(project="context"))
    said["with"] = run(with_config, context=wandb_config(project="outside"))
    said["override"] = run(overrides)
    said["plain"] = [objective(1), asyncio.run(async_objective(2))]
    said["no parent"] = failure(only_shares)
    said["trace"] = failure(traces)
    said["outside"] = [overridden.forward.__self__ is overridden, str(wandb.run)]
    print(json.dumps(said))
