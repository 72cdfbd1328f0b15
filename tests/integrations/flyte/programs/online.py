"""Tasks in containers, with a W&B server: shared runs, retries, downloads, sweeps.

Arguments: nothing, or a task's name, the Flyte run's and action's, and a context for another
container.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import flyte
import wandb

from mlflow_wandb_flyte import (
    download_wandb_run_dir,
    download_wandb_sweep_dirs,
    get_wandb_run,
    get_wandb_sweep_id,
    track,
    wandb_config,
    wandb_init,
    wandb_sweep,
    wandb_sweep_config,
)
from tests.integrations.flyte.programs.container import in_another_container, in_container, traces

env = flyte.TaskEnvironment(name="online")
said: dict[str, Any] = {}
here = Path(os.environ["WANDB_DIR"])


# -- a parent and a child in another container ------------------------------------------------


@wandb_init
@env.task
def child() -> None:
    wandb.log({"by_child": 2})


@wandb_init(project="family", entity="tester")
@env.task
def parent() -> None:
    wandb.log({"before": 1})
    error = in_another_container(__file__, "child", "run1", "b")
    wandb.log({"after": 3})
    said["child"] = error


@wandb_init(project="own", on_backend_error="warn")
@env.task
def by_context() -> None:
    wandb.log({"x": 1})


# -- retries ----------------------------------------------------------------------------------


@track(project="retried", entity="tester")
@env.task
def retried() -> None:
    attempt = flyte.ctx().attempt_number
    wandb.log({"attempt": attempt})
    if attempt == 0:
        raise ValueError("again")


# -- downloads --------------------------------------------------------------------------------


@wandb_init(project="downloads", entity="tester", download_logs=True)
@env.task
def downloads() -> None:
    for step in range(600):
        wandb.log({"x": step})
    (here / "saved.txt").write_text("hello")
    get_wandb_run().save(str(here / "saved.txt"), base_path=str(here))


@wandb_init(project="downloads", entity="tester", download_logs=True)
@env.task
def downloads_of_failed() -> None:
    wandb.log({"x": 1})
    raise ValueError("no")


@wandb_init(project="gone", entity="tester", download_logs=True, mode="offline")
@env.task
def downloads_offline() -> None:
    wandb.log({"x": 1})


# -- sweeps -----------------------------------------------------------------------------------


@wandb_init
def objective() -> None:
    run = get_wandb_run()
    run.log({"loss": run.config["lr"] * 10})


@wandb_sweep
@env.task
def agent(number: int) -> int:
    wandb.agent(get_wandb_sweep_id(), objective, project="tuned", entity="tester", count=1)
    return number


@wandb_sweep(project="tuned", entity="tester", download_logs=True)
@env.task
async def sweep() -> None:
    import asyncio

    said["sweep"] = get_wandb_sweep_id()
    said["agents"] = sorted(await asyncio.gather(*(agent.aio(i) for i in range(AGENTS))))


AGENTS = 22


def main() -> None:
    said["parent"] = in_container(parent, "run1", "a")
    said["context"] = in_container(
        by_context,
        "run2",
        "a",
        wandb_config(project="given", entity="tester", id="named").to_dict(),
    )
    os.environ["FLYTE_ATTEMPT_NUMBER"] = "0"
    said["attempts"] = [in_container(retried, "run3", "a")]
    said["attempts"].append(
        in_another_container(__file__, "retried", "run3", "a", FLYTE_ATTEMPT_NUMBER="1")
    )
    said["downloads"] = in_container(downloads, "run4", "a")
    folder = here / "downloaded"
    said["folder"] = download_wandb_run_dir(
        "run4-a", str(folder), project="downloads", entity="tester"
    )
    said["failed"] = in_container(downloads_of_failed, "run7", "a")
    said["offline"] = in_container(downloads_offline, "run5", "a")
    config = wandb_sweep_config(
        method="grid", parameters={"lr": {"values": [i / 10 for i in range(AGENTS)]}}
    )
    said["swept"] = in_container(sweep, "run6", "a", config.to_dict())
    said["sweep folders"] = download_wandb_sweep_dirs(
        said["sweep"], str(here / "swept"), project="tuned", entity="tester"
    )
    said["traces"] = traces
    print(json.dumps(said))


if __name__ == "__main__":
    from wandb.agents import pyagent

    pyagent.Agent.HEARTBEAT_SLEEP_SECONDS = 0.2
    if len(sys.argv) > 1:
        name, run, action, context = sys.argv[1:]
        print(json.dumps(in_container(globals()[name], run, action, json.loads(context))))
    else:
        main()
