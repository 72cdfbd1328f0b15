"""`on_backend_error="warn"`: a W&B that cannot be reached makes the run an offline one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.environment import isolated
from tests.support.mlflow_state import read_runs
from tests.support.processes import free_port, run_script
from tests.support.stores import copy_store

SCRIPT = """
import flyte
import wandb
from mlflow_wandb_flyte import DECORATOR

env = flyte.TaskEnvironment(name="unreachable")

@DECORATOR(project="p", on_backend_error="warn")
@env.task
def task() -> str:
    wandb.log({"a": 1})
    return "offline" if wandb.run.offline else "online"

flyte.init()
print("body:", flyte.with_runcontext(mode="local").run(task).outputs().o0)
"""


@pytest.mark.parametrize("decorator", ["track", "wandb_init"])
def test_the_task_goes_on_offline(tmp_path: Path, empty_store: Path, decorator: str) -> None:
    """Its body runs, W&B's folder has the run, and MLflow has what it logged, in one run."""
    store = copy_store(empty_store, tmp_path / "mlflow.db")
    address = {
        "WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}", "WANDB_API_KEY": "k" * 40,
        "WANDB_INIT_TIMEOUT": "5", "WANDB_MODE": "online", "MLFLOW_WANDB_INIT_TIMEOUT": "60",
    }  # fmt: skip
    env = isolated(tmp_path, **address)
    done = run_script(SCRIPT.replace("DECORATOR", decorator), env, tmp_path / "work")
    assert "body: offline" in done.stdout
    assert len(list(tmp_path.rglob("offline-run-*/run-*.wandb"))) == 1
    assert [run.points("a") for run in read_runs(store).values()] == [[(0, 1.0)]]
