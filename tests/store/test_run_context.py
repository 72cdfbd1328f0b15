"""MLflow runs that are started in a process where a W&B run may be open."""

from __future__ import annotations

from pathlib import Path

from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script

WITHOUT_A_RUN = """
import sys
import mlflow
with mlflow.start_run(run_name="alone"):
    pass
assert "wandb" not in sys.modules
from mlflow.tracking._tracking_service.client import TrackingServiceClient
create_run = TrackingServiceClient.create_run
import wandb
with mlflow.start_run(run_name="imported"):
    pass
wandb.init(mode="disabled", project="p")
with mlflow.start_run(run_name="disabled"):
    pass
assert TrackingServiceClient.create_run is create_run
"""


def test_without_an_open_wandb_run_mlflow_is_as_ever(env: dict[str, str], tmp_path: Path) -> None:
    """No tags, no import of wandb, nothing of MLflow's replaced; a disabled run is not open."""
    run_script(WITHOUT_A_RUN, env, tmp_path / "work")
    states = read_runs(env["MLFLOW_TRACKING_URI"])
    tagged = [key for state in states.values() for key in state.tags if key.startswith("wandb.")]
    assert (len(states), tagged) == (3, [])


FORKED = """
import os, sys
import mlflow, wandb
run = wandb.init(project="p", id="open")
mlflow.get_tracking_uri()
pid = os.fork()
if pid == 0:
    from mlflow_wandb_plugin.store.run_context import WandbRunContext, _name_in_config
    from mlflow.entities import Run, RunData, RunInfo, RunTag
    tags = WandbRunContext().tags()
    data = RunData(tags=[RunTag(key, value) for key, value in tags.items()])
    info = RunInfo("of-child", "0", "", "RUNNING", 0, None, "active")
    _name_in_config(Run(info, data))
    os._exit(0 if tags["wandb.beside.run_id"] == "open" else 1)
assert os.waitpid(pid, 0)[1] == 0
assert "mlflow_runs_beside" not in run.config
with mlflow.start_run() as mine:
    pass
assert run.config["mlflow_runs_beside"] == [mine.info.run_id]
run.finish()
"""


def test_a_forked_child_leaves_the_config_to_its_parent(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Its MLflow runs are tagged; wandb's connection is the parent's."""
    run_script(FORKED, env, tmp_path / "work")
