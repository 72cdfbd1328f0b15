"""The callbacks' hooks, called as Ray's controller and Tune's driver call them, without a cluster.

The last line of output is JSON.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.train import RunConfig
from ray.train.v2._internal.execution.context import TrainRunContext

from mlflow_wandb_ray import DualLoggerCallback, DualTrainCallback
from tests.integrations.ray.programs.cluster import trial_of

SECRET = "0123456789abcdef"


def train(name: str, error: Exception | None = None) -> str:
    """A training of three reports, as its controller sees it; returns the run's id."""
    callback: Any = pickle.loads(pickle.dumps(DualTrainCallback(project=name)))
    context = TrainRunContext(
        run_config=RunConfig(name=name, storage_path=str(Path.cwd() / "storage")),
        train_loop_config={"lr": 0.1, "token": SECRET},
        scaling_config=None,
        backend_config=None,
        dataset_config=None,
    )  # fmt: skip
    callback.after_controller_start(context)
    for step in range(3):
        callback.after_report(None, [{"loss": 1 / (step + 1)}, {"loss": 99.0}])
    callback.after_controller_finish(SimpleNamespace(error=error))
    return str(callback._run_thread.run_id)


def restored(name: str, saved: bool) -> dict[str, str]:
    """Two sessions of one experiment: in the first, a trial is cut short.

    Args:
        saved: Tune has saved the callback's state since the trial began.
    """
    first = DualLoggerCallback(project=name)
    first.setup()
    trial = trial_of(name, {"lr": 0.5})
    first.log_trial_start(trial)
    _results(first, trial, 1, 2)
    kept = first.get_state() if saved else {"ids": {}}
    first.on_experiment_end([trial])

    second: Any = pickle.loads(pickle.dumps(first))
    second.setup()
    second.set_state(kept)
    trial = trial_of(name, {"lr": 4.0})
    second.log_trial_start(trial)
    second.log_trial_start(trial)
    _results(second, trial, 3, 4)
    second.log_trial_end(trial, failed=True)
    second.on_experiment_end([trial])
    return dict(second.get_state()["ids"])


def remote_checkpoint(name: str) -> str:
    """A checkpoint on a file system that is not this machine's, as a bucket is."""
    import pyarrow.fs
    from ray.train import Checkpoint

    from mlflow_wandb_ray.runs import Destination, begin
    from mlflow_wandb_ray.tune import log_checkpoint

    bucket = pyarrow.fs._MockFileSystem()
    bucket.create_dir("kept/checkpoint_000007")
    with bucket.open_output_stream("kept/checkpoint_000007/state.json") as file:
        file.write(b'{"next": 8}')
    run = begin(Destination({"project": name}), {"reinit": "create_new"}, {}, None)
    log_checkpoint(run, Checkpoint("kept/checkpoint_000007", bucket), 7)
    run.finish()
    return str(run.id)


def saves(name: str) -> str:
    """A trial that saves once, and then goes on from a checkpoint of another trial."""
    from ray.train import Checkpoint
    from ray.train._internal.session import _TrainingResult

    callback = DualLoggerCallback(project=name, upload_checkpoints=True)
    trial = trial_of(name, {})
    about: dict[str, Any] = {"iteration": 1, "trials": [trial], "trial": trial}

    def checkpoint(content: str) -> Any:
        folder = Path.cwd() / content
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps(content))
        return Checkpoint.from_directory(folder)

    callback.on_trial_start(**about)
    own = _TrainingResult(checkpoint("own"), {"training_iteration": 1})
    callback.on_checkpoint(**about, checkpoint=own.checkpoint)
    trial.on_checkpoint(own)
    callback.on_trial_save(**about)
    another = _TrainingResult(checkpoint("another"), {"training_iteration": 2})
    trial.run_metadata.checkpoint_manager._latest_checkpoint_result = another
    callback.on_trial_save(**about)
    callback.on_trial_complete(**about)
    callback.on_experiment_end([trial])
    return str(callback.get_state()["ids"][trial.trial_id])


def _results(callback: Any, trial: Any, *iterations: int) -> None:
    for iteration in iterations:
        result = {
            "score": iteration * 10.0, "training_iteration": iteration, "pid": 1, "done": False,
            "timestamp": 1_700_000_000, "date": "today", "node_ip": "127.0.0.1", "config": {},
            "hostname": "h", "trial_id": trial.trial_id, "time_total_s": 1.0,
        }  # fmt: skip
        callback.log_trial_result(iteration, trial, result)


def main() -> None:
    said: dict[str, Any] = {}
    if sys.argv[1:] == ["no-key"]:
        # wandb reads its environment once a process.
        del os.environ["WANDB_API_KEY"]
        said["no-key"] = train("no-key")
    else:
        said["failed"] = train("failed", RuntimeError("retries spent"))
        said["again"] = [train("again"), train("again")]
        said["remote"] = remote_checkpoint("remote")
        said["saves"] = saves("saves")
        said["cut-short"] = restored("cut-short", saved=True)
        said["cut-early"] = restored("cut-early", saved=False)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
