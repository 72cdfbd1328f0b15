"""Real Elastic workers: one node, or one of two. Arguments: tasks, each maybe with ``:ATTEMPT``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import flyte
import mlflow
import torch.distributed as dist
from flyteplugins.pytorch.task import Elastic

from mlflow_wandb_flyte import (
    get_mlflow_run,
    get_wandb_run,
    mlflow_run,
    track,
    wandb_config,
    wandb_init,
)
from mlflow_wandb_flyte.task import _Call
from tests.integrations.flyte.programs.container import in_container

NODES = int(os.environ.get("NODES", "1"))
env = flyte.TaskEnvironment(
    name="elastic",
    plugin_config=Elastic(
        nnodes=NODES, nproc_per_node=2, max_restarts=0, monitor_interval=1,
        rdzv_configs={"timeout": 60, "join_timeout": 60},
    ),
)  # fmt: skip


def rank() -> int:
    return int(os.environ["RANK"])


def log_rank() -> None:
    run = get_wandb_run()
    if run is not None:
        run.log({"rank": rank()})


def note(what: str) -> None:
    (Path(os.environ["NOTES"]) / f"{rank()}-{time.time_ns()}").write_text(what)


# -- the six rows, in one launch: each worker calls what each row's task hands to workers -----


def row(mode: str, scope: str) -> Any:
    init = track if (mode, scope) == ("shared", "global") else wandb_init

    @env.task
    def logs() -> None:
        log_rank()
        run = get_wandb_run()
        note(f"{mode}/{scope} {run.id if run else None}")
        active = mlflow.active_run()
        if active is not None:
            mlflow.log_metric("by_mlflow", rank(), step=rank())

    decorate = init(project="rows", run_mode=mode, rank_scope=scope, id=f"{mode}-{scope}")
    return decorate(logs)


@env.task
def six_rows() -> int | None:
    dist.init_process_group("gloo")
    for mode in ("auto", "shared", "new"):
        for scope in ("global", "worker"):
            handed = _Call(row(mode, scope)).runner().func
            handed()
            dist.barrier()
    dist.destroy_process_group()
    return 1


# -- tasks that are launched by themselves ----------------------------------------------------


@track(project="elastic")
@env.task
def meets() -> int | None:
    """Only rank 0 has runs; a collective operation works around it."""
    dist.init_process_group("gloo")
    dist.barrier()
    dist.destroy_process_group()
    log_rank()
    if get_mlflow_run() is not None:
        mlflow.log_metric("by_mlflow", rank())
    return rank() + 1


@mlflow_run(experiment_name="failing in MLflow", run_mode="new")
@wandb_init(project="elastic", run_mode="new")
@env.task
def fails() -> int | None:
    log_rank()
    wait_for_peer()
    if rank() == 1:
        raise ValueError("no")
    time.sleep(120)
    return 1


@mlflow_run(experiment_name="killed in MLflow", run_mode="new")
@wandb_init(project="elastic", run_mode="new")
@env.task
def killed_once() -> int | None:
    """In MLflow's run rank 0 logs alone; it is the one that is killed outright."""
    log_rank()
    if flyte.ctx().attempt_number == 0:
        wait_for_peer()
        if rank() == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(120)
    return 1


def wait_for_peer() -> None:
    """Both processes have their runs open."""
    dist.init_process_group("gloo")
    dist.barrier()


def statuses() -> dict[str, str]:
    """Of all MLflow runs, by their Flyte run's name or W&B id, once none is open any more."""
    client = mlflow.MlflowClient()
    deadline = time.monotonic() + 60
    while True:
        experiments = [one.experiment_id for one in client.search_experiments()]
        runs = client.search_runs(experiments)
        found = {
            run.data.tags.get("wandb.run_id")
            or run.data.tags.get("flyte.run_name", "parent"): run.info.status
            for run in runs
        }
        if "RUNNING" not in found.values() or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


if __name__ == "__main__":
    said: dict[str, Any] = {}
    for argument in sys.argv[1:]:
        name, _, attempt = argument.partition(":")
        os.environ["FLYTE_ATTEMPT_NUMBER"] = attempt or "0"
        context = wandb_config(tags=["elastic"]).to_dict()
        said[argument] = in_container(globals()[name], name.replace("_", "-"), "a0", context)
        said[f"after {argument}"] = statuses()
    print(json.dumps(said))
