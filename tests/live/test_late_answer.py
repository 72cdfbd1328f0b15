"""MLflow answers after `wandb.init` has stopped waiting for it."""

from __future__ import annotations

from pathlib import Path

from mlflow_wandb_plugin.sources.wandb_local.folders import find_logs
from mlflow_wandb_plugin.sources.wandb_local.run_log import peek
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script

ANSWERS_BEFORE_FINISH = """
import time
import mlflow_wandb_plugin
import wandb

mlflow_wandb_plugin.autolog(init_timeout=0)
run = wandb.init(project="late")
run.log({"loss": 1.0})
assert "mlflow_run_id" not in run.config
deadline = time.monotonic() + 240
while "mlflow_run_id" not in run.config:
    assert time.monotonic() < deadline, "MLflow never answered"
    time.sleep(0.05)
run.log({"loss": 2.0})
run.finish()
"""


def test_a_late_mlflow_run_id_is_in_the_config_as_soon_as_it_is_known(
    env: dict[str, str], tmp_path: Path
) -> None:
    """It is there while the run goes on, and printed once."""
    done = run_script(ANSWERS_BEFORE_FINISH, env, tmp_path)
    [state] = read_runs(env["MLFLOW_TRACKING_URI"]).values()
    [log] = find_logs(tmp_path / "work" / "wandb").logs
    assert peek(log).config["mlflow_run_id"] == state.run_id
    assert state.status == "FINISHED"
    assert state.points("loss") == [(0, 1.0), (1, 2.0)]
    assert done.stderr.count(f"MLflow run {state.run_id}") == 1


ENDS_AT_ONCE = """
import mlflow_wandb_plugin
import wandb

mlflow_wandb_plugin.autolog(init_timeout=0, finish_timeout=200)
with wandb.init(project="late") as run:
    run.log({"loss": 1.0})
"""


def test_a_run_that_ends_before_mlflow_answers_is_named_at_its_end(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Its id and location are printed, once."""
    done = run_script(ENDS_AT_ONCE, env, tmp_path)
    [state] = read_runs(env["MLFLOW_TRACKING_URI"]).values()
    assert done.stderr.count(f"MLflow run {state.run_id}") == 1
