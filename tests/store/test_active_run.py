"""How the replica that is MLflow's active run begins and ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _active(env: dict[str, str]) -> None:
    env.update(
        MLFLOW_WANDB_ACTIVE="1", MLFLOW_WANDB_INIT_TIMEOUT="90", MLFLOW_WANDB_FINISH_TIMEOUT="120"
    )


IN_ONE_PROCESS = """
import mlflow, mlflow_wandb_plugin, wandb
mlflow_wandb_plugin.autolog()

def init(name):
    return wandb.init(project="ends", id=name)

def end_run_first():
    run = init("end_run first")
    mlflow.end_run()
    run.log({"m": 1})
    run.finish()

def finish_first():
    run = init("finish first")
    mlflow.log_metric("m", 1.0)
    run.finish()
    mlflow.end_run()

def inside():
    with init("inside") as run:
        replica = mlflow.active_run().info.run_id
        with mlflow.start_run(run_name="mine", tags={"a": "b"}, description="words") as begun:
            assert begun.info.run_id == replica
            mlflow.log_metric("m", 1.0)
        assert mlflow.get_run(replica).info.status == "RUNNING"
        assert mlflow.active_run().info.run_id == replica

def inside_failed():
    with init("inside failed"), mlflow.start_run():
        raise LookupError

def around():
    with mlflow.start_run(run_name="own") as own:
        with init("around"):
            assert mlflow.active_run().info.run_id == own.info.run_id
        mlflow.log_metric("m", 1.0)

def around_failed():
    with mlflow.start_run(run_name="own failed"), init("around failed"):
        raise LookupError

def nested():
    with init("nested"):
        replica = mlflow.active_run().info.run_id
        try:
            with mlflow.start_run(nested=True, run_name="child") as child:
                assert child.data.tags["mlflow.parentRunId"] == replica
                raise LookupError
        except LookupError:
            mlflow.log_metric("m", 1.0)

for case in (end_run_first, finish_first, inside, inside_failed, around, around_failed, nested):
    try:
        case()
    except LookupError:
        assert case in (inside_failed, around_failed)
    assert mlflow.active_run() is None, case
"""


def test_the_replica_ends_once_as_the_wandb_run_does(env: dict[str, str], tmp_path: Path) -> None:
    """Whichever of both APIs ends first, and whether MLflow's block is inside or around; runs of
    MLflow's own end as MLflow says."""
    run_script(IN_ONE_PROCESS, env, tmp_path / "work")
    runs = {run.name: run for run in read_runs(env["MLFLOW_TRACKING_URI"]).values()}
    assert {name: run.status for name, run in runs.items()} == {
        "end_run first": "FINISHED", "finish first": "FINISHED", "inside": "FINISHED",
        "inside failed": "FAILED", "around": "FINISHED", "own": "FINISHED",
        "around failed": "FAILED", "own failed": "FAILED", "nested": "FINISHED",
        "child": "FAILED",
    }  # fmt: skip
    assert runs["inside"].tags["a"] == "b"
    assert runs["inside"].tags["mlflow.note.content"] == "words"
    with_m = {name for name, run in runs.items() if "m" in run.metrics}
    assert with_m == {"end_run first", "finish first", "inside", "own", "nested"}


DYING = """
import os, signal, sys
import mlflow, mlflow_wandb_plugin, wandb
mlflow_wandb_plugin.autolog()
wandb.init(project="ends", id="dying")
mlflow.start_run()
mlflow.log_metric("m", 1.0)
{end}
"""


@pytest.mark.parametrize(
    ("end", "code", "status"),
    [
        ("sys.exit(3)", 3, "FAILED"),
        ("raise LookupError", 1, "FAILED"),
        ("sys.exit()", 0, "FINISHED"),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, "KILLED"),
    ],
)
def test_a_script_that_ends_no_run_ends_the_replica(
    env: dict[str, str], tmp_path: Path, end: str, code: int, status: str
) -> None:
    """By its exit code; MLflow's own exit hook, which says FINISHED or FAILED, changes nothing."""
    done = run_script(DYING.format(end=end), env, tmp_path / "work", check=False)
    assert done.returncode == code, done.stderr
    client = MlflowClient(env["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("ends")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    run_id = run.info.run_id
    wait_until(lambda: client.get_run(run_id).data.tags["mlflow.wandb.state"] == "complete")
    assert client.get_run(run_id).info.status == status
