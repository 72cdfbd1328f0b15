"""What MLflow's calls log in forked children of the process that opened the W&B run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.both_homes import differences, numbers, points
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.usefixtures("patient"), pytest.mark.slow]

FORKED = """
import multiprocessing, os, time
import mlflow, mlflow_wandb_plugin, wandb
from pathlib import Path

def child(run_id, late):
    assert mlflow.active_run() is None
    if late:
        while not Path("finished").exists():
            time.sleep(0.05)
        mlflow.MlflowClient().log_metric(run_id, "late", 1.0)
        Path("logged").touch()
        return
    mlflow.MlflowClient().log_metric(run_id, "of_child", 1.0, step=3)
    with mlflow.start_run(run_id=run_id):
        mlflow.log_metrics({"of_child": 2.0, "other": 0.5}, step=4)
        mlflow.log_param("depth", 3)
        mlflow.set_tag("team", "vision")
        mlflow.log_text("words", "texts/child.txt")
    grandchild = os.fork()
    if not grandchild:
        mlflow.MlflowClient().log_metric(run_id, "of_grandchild", 1.0)
        os._exit(0)
    os.waitpid(grandchild, 0)

if __name__ == "__main__":
    mlflow_wandb_plugin.autolog()
    run = wandb.init(project="calls", id="forked")
    run_id = run.config["mlflow_run_id"]
    run.log({"loss": 1.0}, step=0)
    fork = multiprocessing.get_context("fork")
    late = fork.Process(target=child, args=(run_id, True))
    late.start()
    process = fork.Process(target=child, args=(run_id, False))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert mlflow.active_run().info.run_id == run_id
    assert mlflow.get_run(run_id).info.status == "RUNNING"
    run.log({"loss": 0.5}, step=1)
    run.finish()
    Path("finished").touch()
    late.join()
    assert late.exitcode == 0 and Path("logged").exists()
"""


def test_what_a_forked_child_logs_is_in_both_homes(
    online: dict[str, str], wandb_server: WandbServer, tmp_path: Path
) -> None:
    """It takes none of the steps that the script chooses, and ends no run; what comes after the
    W&B run has ended stays in MLflow, with a warning."""
    done = run_script(FORKED, online, tmp_path / "work")
    assert "the W&B run has ended in the process that opened it" in done.stderr
    assert numbers(wandb_server, "calls/forked") == [
        {"loss": 1.0},
        {"loss": 0.5},
        {"of_child": 1.0, "mlflow_step": 3},
        {"of_child": 2.0, "other": 0.5, "mlflow_step": 4},
        {"of_grandchild": 1.0, "mlflow_step": 0},
    ]
    run = wandb_server.run("calls/forked")
    assert (run.values["depth"], run.tags) == (3, ["team:vision"])
    assert "artifacts/texts/child.txt" in run.files
    state = read_runs(online["MLFLOW_TRACKING_URI"], tmp_path / "there")["forked"]
    assert points(state) == {
        "loss": [(0, 1.0), (1, 0.5)],
        "of_child": [(3, 1.0), (4, 2.0)],
        "other": [(4, 0.5)],
        "of_grandchild": [(0, 1.0)],
        "late": [(0, 1.0)],
    }
    assert (state.status, state.params) == ("FINISHED", {"depth": "3"})
    assert "texts/child.txt" in state.artifacts
    (folder,) = (tmp_path / "client" / "dir" / "wandb").glob("run-*-forked")
    assert not (folder / "mlflow-calls").exists()
    assert differences(folder, online["MLFLOW_TRACKING_URI"]) == ()
