"""MLflow answers after `wandb.init` has stopped waiting for it."""

from __future__ import annotations

from pathlib import Path

from mlflow_wandb_plugin.sources.wandb_local.folders import find_logs
from mlflow_wandb_plugin.sources.wandb_local.run_log import peek
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script

ANSWERS_BEFORE_FINISH = """
import pathlib, time
import mlflow_wandb_plugin
from mlflow_wandb_plugin.journal.status_file import read_status
import wandb

mlflow_wandb_plugin.autolog(init_timeout=0)
run = wandb.init(project="late")
run.log({"loss": 1.0})
[path] = pathlib.Path(run.settings.sync_file).parent.parent.glob("mlflow/*.journal")
deadline = time.monotonic() + 60
while not read_status(path).get("run_id"):
    assert time.monotonic() < deadline, "MLflow never answered"
    time.sleep(0.05)
assert "mlflow_run_id" not in run.config
run.finish()
"""


def test_a_late_mlflow_run_id_is_in_the_config_at_finish(
    env: dict[str, str], tmp_path: Path
) -> None:
    """An MLflow run id that comes late is in the W&B config before the run finishes."""
    run_script(ANSWERS_BEFORE_FINISH, env, tmp_path)
    [state] = read_runs(env["MLFLOW_TRACKING_URI"]).values()
    [log] = find_logs(tmp_path / "work" / "wandb").logs
    assert peek(log).config["mlflow_run_id"] == state.run_id
    assert state.status == "FINISHED"
