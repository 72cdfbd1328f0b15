"""What MLflow's calls log in tasks under `track`, and under `wandb_init` with `mlflow_run`; with a
W&B server. Arguments: tasks."""

from __future__ import annotations

import json
import sys
from typing import Any

import flyte
import mlflow
import mlflow.sklearn
import wandb
from sklearn.linear_model import LinearRegression

from mlflow_wandb_flyte import get_mlflow_run, get_wandb_run, mlflow_run, track, wandb_init
from tests.integrations.flyte.programs.container import in_container

env = flyte.TaskEnvironment(name="calls")
said: dict[str, Any] = {}


def log_by_both() -> None:
    wandb.log({"loss": 0.5})
    mlflow.log_metric("by_mlflow", 3, step=7)
    mlflow.log_param("depth", 3)
    mlflow.set_tag("team", "vision")
    mlflow.log_text("hello", "note.txt")


@track(project="tracked", entity="tester")
@env.task
def tracked() -> None:
    log_by_both()


@track(project="plain", entity="tester", id="plain-a")
def plain() -> None:
    """No task: called outside of Flyte."""
    log_by_both()


@track
@env.task
async def joins() -> str:
    """Its parent opened the run without MLflow's calls in mind."""
    mlflow.log_metric("by_child", 1, step=2)
    return str(get_mlflow_run().info.run_id)


@wandb_init(project="joined", entity="tester")
@env.task
async def joined() -> None:
    wandb.log({"before": 1})
    said["joined"] = [get_wandb_run().id, await joins()]
    wandb.log({"after": 1})


@mlflow_run(experiment_name="named by mlflow_run", run_name="mine", tags={"by": "mlflow_run"})
@wandb_init(project="both", entity="tester")
@env.task
def both() -> None:
    log_by_both()


@track(project="fitted", entity="tester")
@env.task
def fitted() -> None:
    """What MLflow's autologging writes."""
    mlflow.sklearn.autolog(log_models=False)
    fit()


@mlflow_run(autolog=True, framework="sklearn", log_models=False)
@wandb_init(project="fitted_as_told", entity="tester")
@env.task
def fitted_as_told() -> None:
    """Autologging that the decorator switches on."""
    fit()


def fit() -> None:
    LinearRegression(positive=True).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
    mlflow.sklearn.autolog(disable=True)


@wandb_init(project="away", entity="tester")
@mlflow_run
@env.task
def mlflow_is_away() -> None:
    log_by_both()
    said["away"] = get_mlflow_run() is not None


@mlflow_run(run_mode="new", on_backend_error="warn")
@env.task
def mlflow_is_away_alone() -> None:
    mlflow.log_metric("dropped", 1)
    mlflow.log_text("dropped", "note.txt")
    said["alone"] = "ran"


@mlflow_run(experiment_name="parents", on_backend_error="warn")
@env.task
def parent() -> None:
    said["parent"] = [get_mlflow_run().info.run_id, nested()]


@mlflow_run(run_mode="nested")
@env.task
def nested() -> str:
    return str(get_mlflow_run().info.run_id)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if name == "plain":
            said["plain error"] = plain() or ""
        elif name in ("joined", "parent"):
            flyte.init()
            flyte.with_runcontext(mode="local").run(globals()[name])
        else:
            said[f"{name} error"] = in_container(globals()[name], name.replace("_", "-"), "a")
    print(json.dumps(said))
