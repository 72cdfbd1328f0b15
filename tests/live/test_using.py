"""Settings for the runs of one thread or task."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from tests.support.processes import run_script

SCRIPT = """
import threading
import wandb
import mlflow_wandb_plugin
from mlflow_wandb_plugin.live.tap import using

mlflow_wandb_plugin.autolog(experiment="the process")
both_inside = threading.Barrier(2)

def train(name):
    with using(experiment=f"of {name}"):
        both_inside.wait()
        with wandb.init(project="p", id=name, reinit="create_new") as run:
            run.log({"x": 1})

threads = [threading.Thread(target=train, args=(name,)) for name in ("a", "b")]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with wandb.init(project="p", id="c") as run:
    run.log({"x": 1})
"""


def test_threads_have_settings_of_their_own(
    env: dict[str, str], patient: None, tmp_path: Path
) -> None:
    """Each run goes where its thread said; afterwards the process's settings are in force."""
    run_script(SCRIPT, env, tmp_path)
    client = MlflowClient(env["MLFLOW_TRACKING_URI"])
    names = {one.experiment_id: one.name for one in client.search_experiments()}
    found = {
        run.data.tags["wandb.run_id"]: names[run.info.experiment_id]
        for run in client.search_runs(list(names))
    }
    assert found == {"a": "of a", "b": "of b", "c": "the process"}
