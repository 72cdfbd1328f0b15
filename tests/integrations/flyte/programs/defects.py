"""What went wrong with the plugins that this one replaces, one scenario a defect. Each notes what
it saw, or the error; with a W&B server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flyte
import mlflow
import wandb

from mlflow_wandb_flyte import (
    get_mlflow_run,
    get_wandb_run,
    mlflow_run,
    wandb_config,
    wandb_init,
    wandb_sweep,
)
from tests.integrations.flyte.programs.container import in_another_container, in_container

env = flyte.TaskEnvironment(name="defects")
said: dict[str, Any] = {}
here = Path(os.environ["WANDB_DIR"])
quick = flyte.RetryStrategy(count=1)


def run(task: Any, *args: Any, **context: str) -> Any:
    runner = flyte.with_runcontext(mode="local", custom_context=context)
    return runner.run(task, *args).outputs()


@mlflow_run(run_mode="new", experiment_name="fails")
@env.task
def fails_in_mlflow() -> None:
    said["1 mlflow"] = get_mlflow_run().info.run_id
    raise ValueError("no")


@wandb_init(project="fails")
@env.task
def fails() -> None:
    said["1 wandb"] = get_wandb_run().id
    raise ValueError("no")


@wandb_init(project="kept")
@env.task
async def kept() -> None:
    said["2 run"] = get_wandb_run() is not None


@env.task
async def overrides() -> None:
    await kept.override(short_name="other")()


@wandb_init(project="stacked")
@wandb_sweep
@env.task
def stacked() -> None: ...


@wandb_init(mode="offline")
@env.task
def offline_anywhere() -> None:
    run = get_wandb_run()
    said.setdefault("project", []).append([run.project, run.id])


@wandb_init(run_mode="new")
@env.task
async def new_child() -> None:
    get_wandb_run().log({"child": 1})
    said["6 child"] = get_wandb_run().id


@wandb_init(project="ids")
@env.task
async def with_id() -> None:
    said["6 parent"] = get_wandb_run().id
    await new_child()


@wandb_init
@env.task
def in_container_child() -> None:
    (here / "8 child").write_text(get_wandb_run().path)


@wandb_init(project="theirs", entity="tester")
@env.task
def in_container_parent() -> None:
    said["8 parent"] = get_wandb_run().path
    in_another_container(__file__, "in_container_child", "run8", "b")


@wandb_init
@env.task
async def joins() -> str:
    return str(get_wandb_run().id)


@wandb_init(run_mode="new", project="siblings")
@env.task
async def sibling(x: int) -> None:
    await asyncio.sleep(0.2 * (2 - x))
    said.setdefault("9", []).append([get_wandb_run().id, await joins()])


@env.task
async def siblings() -> None:
    await asyncio.gather(sibling(0), sibling(1))


@wandb_init(project="logs")
@env.task
def logs() -> None:
    wandb.log({"x": 1})
    said["10"] = wandb.run.id == get_wandb_run().id


@mlflow_run(run_mode="new", experiment_name="mixed")
@env.task
async def mlflow_sibling(x: int) -> None:
    said.setdefault("11", []).append([get_mlflow_run().info.run_id, x])
    for step in range(3):
        await asyncio.sleep(0.05)
        mlflow.log_metric("x", x, step=step)


@env.task
async def mlflow_siblings() -> None:
    await asyncio.gather(mlflow_sibling(1), mlflow_sibling(2), mlflow_sibling(3))


@mlflow_run(run_mode="new", experiment_name="terminated")
@env.task
def terminated() -> None:
    (here / "terminated").write_text(get_mlflow_run().info.run_id)
    time.sleep(600)


@mlflow_run(run_mode="new", experiment_name="retried")
@env.task(retries=quick)
def retried_in_mlflow() -> None:
    seen = said.setdefault("13 mlflow", [])
    seen.append(get_mlflow_run().info.run_id)
    if len(seen) < 2:
        raise ValueError("again")


@wandb_init(project="retried")
@env.task(retries=quick)
def retried() -> None:
    seen = said.setdefault("13 wandb", [])
    seen.append(get_wandb_run().id)
    get_wandb_run().log({"attempt": len(seen)})
    if len(seen) < 2:
        raise ValueError("again")


@wandb_init(project="had", entity="tester", download_logs=True)
@env.task
def downloads() -> int:
    get_wandb_run().log({"x": 1})
    said["14 run"] = get_wandb_run().id
    return 1


@wandb_init(project="had", entity="tester", download_logs=True, mode="offline")
@env.task
def cannot_download() -> int:
    return 1


def terminate() -> None:
    clean = {key: value for key, value in os.environ.items() if "SERVICE" not in key}
    command = [sys.executable, __file__, "terminated", "run12", "a", "{}"]
    with subprocess.Popen(command, env=clean, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (here / "terminated").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    said["12"] = (here / "terminated").read_text()


def in_offline_mode() -> None:
    os.environ["WANDB_MODE"] = "offline"
    try:
        error = in_container(offline_by_variable, "run7", "a")
        said["7"] = error or said.get("7 mode")
    finally:
        del os.environ["WANDB_MODE"]


@wandb_init(project="must-not-be-online")
@env.task
def offline_by_variable() -> None:
    said["7 mode"] = "offline" if get_wandb_run().offline else "online"
    get_wandb_run().log({"x": 1})


def try_(name: str, scenario: Callable[[], Any]) -> None:
    try:
        said[name] = scenario()
    except Exception as error:
        said[name] = f"error: {type(error).__name__}: {error}"[:300]


def main() -> None:
    try_("1a", lambda: run(fails))
    try_("1b", lambda: run(fails_in_mlflow))
    try_("2 override", lambda: run(overrides) and None)
    try_("2 stacked", lambda: str(run(stacked)))
    host = wandb_config(project="hosted", host="http://127.0.0.1:9")
    try_("4", lambda: str(run(offline_anywhere, **dict(host))))
    try_("5", lambda: str(run(offline_anywhere, **dict(wandb_config(project="123", id="1e5")))))
    try_("6", lambda: str(run(with_id, **dict(wandb_config(id="given")))))
    try_("7 error", in_offline_mode)
    try_("8", lambda: in_container(in_container_parent, "run8", "a"))
    said["8 child"] = (here / "8 child").read_text() if (here / "8 child").exists() else None
    try_("9 error", lambda: str(run(siblings)))
    try_("10 error", lambda: str(run(logs)))
    try_("11 error", lambda: str(run(mlflow_siblings)))
    try_("12 error", terminate)
    try_("13a", lambda: str(run(retried_in_mlflow)))
    try_("13b", lambda: str(run(retried)))
    try_("14", lambda: str(run(downloads)))
    try_("14 failing", lambda: str(run(cannot_download)))
    print(json.dumps(said))


if __name__ == "__main__":
    flyte.init()
    if len(sys.argv) > 1:
        name, flyte_run, action, context = sys.argv[1:]
        print(json.dumps(in_container(globals()[name], flyte_run, action, json.loads(context))))
    else:
        main()
