"""Frameworks that log to W&B: both homes have what W&B's own logs have."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.frameworks.homes import Homes
from tests.frameworks.wandb_says import WandbRun

pytestmark = pytest.mark.frameworks


def logged(run: WandbRun) -> Counter[str]:
    """The number of points of each key."""
    return Counter(key for key, *_ in run.points)


def test_hugging_face_trainer(homes: Homes) -> None:
    """Points stand at `train/global_step`, which the Trainer defines as their step metric;
    checkpoints are artifacts."""
    homes.run("hf_trainer.py", "wandb", WANDB_PROJECT="hf", WANDB_LOG_MODEL="checkpoint")
    (run,) = homes.compare("hf").values()
    assert logged(run)["eval/accuracy"] == 4
    assert {step for key, step, *_ in run.points if key == "train/loss"} == set(range(2, 13, 2))


def test_hugging_face_trainer_that_reports_to_both(homes: Homes) -> None:
    """With MLflow's active run as the replica there is one MLflow run, which has everything."""
    homes.run("hf_trainer.py", "wandb,mlflow", WANDB_PROJECT="hf", MLFLOW_WANDB_ACTIVE="1")
    (run,) = homes.compare("hf").values()
    assert len(homes.mlflow_runs()) == 1
    assert logged(run)["eval/accuracy"] == 4


@pytest.mark.parametrize("devices", ["1", "2"])
def test_lightning(homes: Homes, devices: str) -> None:
    """One run, also where a process for each device trains: metrics, histograms of weights and
    gradients, checkpoints."""
    homes.run("lightning_trainer.py", devices)
    (run,) = homes.compare("lightning").values()
    assert logged(run)["val/loss"] == 3
    assert logged(run)["train/loss_step"] == 24 // int(devices) // 2
    assert any(name.startswith("gradients/") for _, row in run.objects for name in row)


def test_xgboost(homes: Homes) -> None:
    """Metrics by round, the chart of feature importance, and the model."""
    homes.run("xgboost_trainer.py")
    (run,) = homes.compare("xgboost").values()
    assert logged(run)["valid-logloss"] == 15


def test_keras(homes: Homes) -> None:
    """Metrics by batch and by epoch, the latter with a step metric; the model."""
    homes.run("keras_trainer.py")
    (run,) = homes.compare("keras").values()
    assert logged(run)["epoch/val_loss"] == 3
    assert {step for key, step, *_ in run.points if key == "epoch/loss"} == {0, 1, 2}


def test_scikit_learn(homes: Homes) -> None:
    """The charts of a classifier are tables and images."""
    homes.run("sklearn_plots.py")
    (run,) = homes.compare("sklearn").values()
    assert logged(run)["accuracy"] == 1


def test_accelerate(homes: Homes) -> None:
    """Its tracker gives every row a step."""
    homes.run("accelerated.py")
    (run,) = homes.compare("accelerate").values()
    assert {step for key, step, *_ in run.points if key == "loss"} == set(range(0, 200, 10))
