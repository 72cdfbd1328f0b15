"""Ray shuts workers down while MLflow and W&B do not answer: what was logged is delivered later."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import pytest

from tests.integrations.ray.conftest import (
    PROGRAMS,
    Left,
    assert_same_points,
    ray_environment,
    rows_of,
)
from tests.support.commands import mlflow_wandb
from tests.support.mlflow_state import read_runs
from tests.support.processes import end_all_of, mlflow_server, run_command, silent_server
from tests.wandb_server import WandbServer

GRACE_S = 5
"""What docs/ray.md says that Ray allows."""
NAME = "left-open"
PROGRAM = [sys.executable, str(PROGRAMS / "train.py"), NAME]


def test_ray_allows_what_the_documentation_says() -> None:
    """Ray has no setting for it: it is the default of a function of its own."""
    from ray.train.v2._internal.execution.worker_group import state

    patience = inspect.signature(state._shutdown_workers).parameters["patience_s"]
    assert patience.default == GRACE_S


@pytest.mark.slow
@pytest.mark.ray_cluster
@pytest.mark.timeout(400)
@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="what is left is found in /proc"
)
def test_what_cannot_be_delivered_in_time_is_delivered_later(
    tmp_path: Path, wandb: WandbServer
) -> None:
    """Neither home answers when Ray ends the worker, and the training ends all the same. Every row
    is in the journal on the storage path: `sync` brings all to MLflow, the same experiment begun
    again all to W&B, at the same steps."""
    work = tmp_path / "work"
    work.mkdir()
    patient = {
        "MLFLOW_WANDB_INIT_TIMEOUT": "1",
        "MLFLOW_WANDB_FINISH_TIMEOUT": "300",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
    }
    wandb.fail("POST /files/*/file_stream", times=None, status=503)
    try:
        with silent_server() as port:
            uri = f"http://127.0.0.1:{port}"
            env = ray_environment(tmp_path, wandb) | {"MLFLOW_TRACKING_URI": uri}
            first = run_command(PROGRAM, env | patient, work, 150)
    finally:
        end_all_of(tmp_path)
        wandb.heal()
    assert json.loads(first.stdout.splitlines()[-1]) == {NAME: "finished"}
    (run,) = wandb.runs
    assert rows_of(run) == []
    with mlflow_server(tmp_path / "server", port):
        ended = mlflow_wandb("sync", str(work / "storage" / NAME), env=env, cwd=work, timeout=120)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        twin = read_runs(uri)[run.name]
        assert twin.points("at") == [(step, float(step)) for step in range(4)]
        assert (twin.status, twin.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")

        second = run_command(PROGRAM, env, work, 150)
        said = json.loads(second.stdout.splitlines()[-1])
        left = Left(said, second.stderr, work, wandb, uri, tmp_path / "read")
        run, twin = left.only(NAME)
    told = left.told(NAME)
    assert [line["resumed_at"] for line in told] == [0] * 8
    assert rows_of(run) == [{"loss": line["loss"], "at": line["at"]} for line in told]
    assert_same_points(run, twin)
    assert (run.state, twin.status) == ("finished", "FINISHED")
