"""Every argument of Ray's callbacks and of its setup functions, hook by hook, without a cluster.

Each part uses a W&B project of its own name. The last line of output is JSON.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from mlflow import MlflowClient
from ray.train import Checkpoint
from ray.train._internal.session import _TrainingResult

from mlflow_wandb_ray import (
    MLflowLoggerCallback,
    WandbLoggerCallback,
    setup_dual,
    setup_mlflow,
    setup_wandb,
)
from tests.integrations.ray.programs.cluster import trial_of

CONFIG = {"lr": 0.1, "left_out": 1, "opt": {"name": "adam"}, "api_key": "open-sesame"}
RESULT = {
    "training_iteration": 1, "env_runners": {"return": 3.0}, "info": {"a": 1, "b": {"c": 2}},
    "text": "no number", "zero_d": np.asarray(32.0), "left_out": 4, "timestamp": 1_700_000_000,
    "done": False, "should_checkpoint": False, "pid": 5, "date": "today", "trial_id": "abcde_00000",
    "picture": np.zeros((4, 4, 3), dtype=np.uint8), "config": {**CONFIG, "lr": 0.2},
}  # fmt: skip


CLIP = np.arange(3, dtype=np.uint8).reshape(1, 3, 1, 1, 1).repeat(3, 2) * np.full(
    (8, 8), 90, np.uint8
)
"""A batch of one video: 3 frames of 3 channels, each brighter than the one before."""


def one_trial(
    callback: Any, name: str, checkpoint: bool = False, more: Mapping[str, Any] | None = None
) -> str:
    """One trial of one result, as Tune's driver tells the callback of it; returns the run's id."""
    trial = trial_of(name, CONFIG)
    (Path(trial.local_path) / "below").mkdir(parents=True, exist_ok=True)
    (Path(trial.local_path) / "progress.csv").write_text("loss\n")
    (Path(trial.local_path) / "below" / "more.txt").write_text("more")
    about: dict[str, Any] = {"iteration": 1, "trials": [trial], "trial": trial}
    callback.setup()
    callback.on_trial_start(**about)
    callback.on_trial_result(**about, result={**RESULT, **(more or {})})
    if checkpoint:
        saved = Path.cwd() / "saved"
        saved.mkdir(exist_ok=True)
        (saved / "state.json").write_text("1")
        own = _TrainingResult(Checkpoint.from_directory(saved), {"training_iteration": 1})
        callback.on_checkpoint(**about, checkpoint=own.checkpoint)
        trial.on_checkpoint(own)
        callback.on_trial_save(**about)
    callback.on_trial_complete(**about)
    callback.on_experiment_end([trial])
    return str(callback.get_state()["ids"][trial.trial_id])


def of_wandb() -> str:
    """By position, as far as Ray's own takes them so; the key is given."""
    callback = WandbLoggerCallback(
        "of-wandb", "a-group", None, os.environ.pop("WANDB_API_KEY"), ["left_out", "info/b"], True,
        upload_checkpoints=True, upload_timeout=240, image_kwargs={"caption": "a picture"},
        video_kwargs={"fps": 4, "format": "gif"}, tags=["one", "two"],
        job_type="tuning", notes="some notes",
    )  # fmt: skip
    assert os.environ.get("WANDB_API_KEY") is None
    assert callback.api_key.encode() not in pickle.dumps(callback)
    return one_trial(callback, "of-wandb", checkpoint=True, more={"clip": CLIP})


def of_mlflow(uri: str, registry: str) -> str:
    import mlflow

    callback = MLflowLoggerCallback(
        uri, registry_uri=registry, experiment_name="of-mlflow", tags={"user_name": "John"},
        tracking_token="a-token", save_artifact=True, log_params_on_trial_end=True,
    )  # fmt: skip
    run_id = one_trial(callback, "of-mlflow")
    assert mlflow.get_registry_uri() == registry
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "a-token"
    assert b"a-token" not in pickle.dumps(callback)
    return run_id


def of_variables(experiment_id: str) -> str:
    """The experiment's id takes precedence over its name."""
    os.environ |= {
        "WANDB_PROJECT_NAME": "of-variables", "WANDB_GROUP_NAME": "group-of-variables",
        "MLFLOW_EXPERIMENT_ID": experiment_id, "MLFLOW_EXPERIMENT_NAME": "another",
    }  # fmt: skip
    try:
        callback = WandbLoggerCallback(save_checkpoints=True)
        return one_trial(callback, "of-variables", checkpoint=True)
    finally:
        for name in ("WANDB_PROJECT_NAME", "WANDB_GROUP_NAME", "MLFLOW_EXPERIMENT_ID"):
            del os.environ[name]
        del os.environ["MLFLOW_EXPERIMENT_NAME"]


def lost() -> str:
    """W&B refuses the project's name, wherever the run is to be."""
    try:
        one_trial(WandbLoggerCallback("no/project"), "lost")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def setup(uri: str) -> list[str]:
    """The setup functions outside of a session, as Ray's own can be called there."""
    key = Path.cwd() / "key"
    key.write_text(f"{os.environ.pop('WANDB_API_KEY')}\nnot the key\n")
    first = setup_wandb(
        CONFIG, None, str(key), True, project="setup", trial_id="setup-wandb", trial_name="a trial",
        group="a-group", tags=["one"],
    )  # fmt: skip
    first.log({"loss": 1.0})
    first.finish()
    second = setup_dual(
        CONFIG, experiment_name="new", create_experiment_if_not_exists=True, id="setup-dual",
        artifact_location=(Path.cwd() / "elsewhere").as_uri(), tags={"user_name": "John"},
        run_name="a name",
    )  # fmt: skip
    second.log({"loss": 2.0})
    second.finish()
    experiment_id = MlflowClient(uri).create_experiment("made before")
    mlflow = setup_mlflow(
        {"lr": 0.1}, uri, None, None, "made before", None, None, "by mlflow",
        tags={"user_name": "Jane"}, id="setup-mlflow",
    )  # fmt: skip
    mlflow.log_metric("loss", 3.0, step=7)
    assert wandb.run is not None
    wandb.run.finish()
    by_id = setup_mlflow(
        {}, uri, experiment_id=experiment_id, experiment_name="ignored", id="setup-by-id"
    )
    by_id.log_metric("loss", 4.0)
    assert wandb.run is not None
    wandb.run.finish()
    refused = []
    for wrong in ({"experiment_name": "not there"}, {}):
        try:
            setup_mlflow(CONFIG, uri, **wrong)
        except ValueError as error:
            refused.append(type(error).__name__)
    return refused


def main() -> None:
    uri, registry, experiment_id = sys.argv[1:]
    said = {
        "of-wandb": of_wandb(),
        "of-mlflow": of_mlflow(uri, registry),
        "of-variables": of_variables(experiment_id),
        "lost": lost(),
        "setup": setup(uri),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
