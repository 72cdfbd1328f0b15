"""MLFLOW_WANDB_HOMES: both, W&B only, or MLflow only."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_wandb_plugin import backfill
from tests.support.commands import journals, mlflow_wandb, wandb_folder
from tests.support.mlflow_state import read_runs
from tests.support.processes import free_port, run_script

pytestmark = pytest.mark.usefixtures("patient")

SCRIPT = """
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="p", id="home", mode="online")
for i in range(5):
    run.log({"m": i})
table = wandb.Table(columns=["a"], data=[[1]])
run.log({"table": table})
artifact = wandb.Artifact("data", "dataset")
with artifact.new_file("x.txt") as file:
    file.write("kept")
run.log_artifact(artifact)
run.finish()
"""


def _offline_is_not_asked_for(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name != "WANDB_MODE"}


def test_mlflow_alone_needs_no_account_and_leaves_no_wandb_files(
    env: dict[str, str], tmp_path: Path
) -> None:
    """A script with mode="online" runs without W&B; its local folder is removed."""
    env = _offline_is_not_asked_for(env)
    run_script(SCRIPT, {**env, "MLFLOW_WANDB_HOMES": "mlflow"}, tmp_path / "work")
    (run,) = read_runs(env["MLFLOW_TRACKING_URI"], tmp_path / "dual").values()
    assert run.points("m") == [(i, float(i)) for i in range(5)]
    assert (run.status, run.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")
    assert run.tags["mlflow.wandb.losses"] == "{}"
    assert any(path.endswith("/x.txt") for path in run.artifacts)
    assert any(path.startswith("wandb/files/media/table/") for path in run.artifacts)
    assert not list(wandb_folder(env).glob("*run-*"))
    assert not journals(env)


def test_mlflow_alone_keeps_the_wandb_files_until_mlflow_has_everything(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Without MLflow, folder and journal stay until `sync` has delivered them."""
    store = env["MLFLOW_TRACKING_URI"]
    env = {**_offline_is_not_asked_for(env), "MLFLOW_WANDB_LINGER": "0"}
    env["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{free_port()}"
    run_script(SCRIPT, {**env, "MLFLOW_WANDB_HOMES": "mlflow"}, tmp_path / "work")
    assert len(list(wandb_folder(env).glob("offline-run-*"))) == 1
    assert len(journals(env)) == 1
    done = mlflow_wandb("sync", "--to", store, env=env, cwd=tmp_path / "work")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = read_runs(store).values()
    assert run.points("m") == [(i, float(i)) for i in range(5)]
    assert run.tags["mlflow.wandb.state"] == "complete"
    assert not list(wandb_folder(env).glob("*run-*"))
    assert not journals(env)


def test_wandb_alone_writes_nothing_to_mlflow(
    env: dict[str, str], tmp_path: Path, fresh_store: str
) -> None:
    """There is no MLflow run, journal or config key; a backfill brings the run later."""
    done = run_script(
        SCRIPT.replace(', mode="online"', "")
        + "\nassert 'mlflow_run_id' not in dict(run.config)\n",
        {**env, "MLFLOW_WANDB_HOMES": "wandb"},
        tmp_path / "work",
    )
    assert "MLflow" not in done.stderr
    assert read_runs(env["MLFLOW_TRACKING_URI"]) == {}
    assert not (wandb_folder(env) / "mlflow").exists()
    (outcome,) = backfill(str(wandb_folder(env)), fresh_store)
    assert (outcome.action, outcome.verdict) == ("migrated", "new")


def test_a_wrong_setting_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    """The error has the variable's name and its allowed values."""
    done = run_script(SCRIPT, {**env, "MLFLOW_WANDB_HOMES": "moon"}, tmp_path / "work", check=False)
    assert done.returncode == 1
    assert "MLFLOW_WANDB_HOMES must be one of both, wandb, mlflow: not 'moon'" in done.stderr
