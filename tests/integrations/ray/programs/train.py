"""Trainings on a real cluster; workers die in some. Each uses a W&B project of its own name.

Workers tell in a file what they report; the last line of output is what came of each training.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.integrations.ray.programs.cluster import small_ray, tell

STEPS = 4


def reporting(config: dict[str, Any]) -> None:
    """Reports from both ranks; ``dies`` says which of them dies after its second report."""
    import ray.train

    context = ray.train.get_context()
    rank, told = context.get_world_rank(), Path(config["told"])
    died = told.with_suffix(".died")
    first_attempt = not died.exists()
    for step in range(STEPS):
        row = {"loss": 1 / (step + 1) + rank, "at": step}
        if rank == 0:
            tell(told, first=first_attempt, **row)
        ray.train.report(row)
        if step == 1 and rank == config.get("dies") and (first_attempt or config.get("always")):
            died.touch()
            os._exit(1)


def gloo(config: dict[str, Any]) -> None:
    """As `reporting`, with what torch.distributed makes of both ranks' numbers."""
    import ray.train
    import torch

    assert torch.distributed.get_backend() == "gloo"
    for step in range(STEPS):
        both = torch.tensor([float(ray.train.get_context().get_world_rank() + step)])
        torch.distributed.all_reduce(both)
        row = {"loss": both.item(), "at": step}
        if ray.train.get_context().get_world_rank() == 0:
            tell(Path(config["told"]), first=False, **row)
        ray.train.report(row)


def logging(config: dict[str, Any]) -> None:
    """Logs in the worker; rank zero is killed once. Nobody ends the run."""
    import ray.train
    import wandb

    from mlflow_wandb_ray import setup_dual

    run = setup_dual(config, project=config["project"])
    context = ray.train.get_context()
    rank, told = context.get_world_rank(), Path(config["told"])
    died = told.with_suffix(".died")
    first_attempt = not died.exists()
    assert wandb.run is run
    for step in range(STEPS):
        row = {"loss": 1 / (step + 1), "at": step}
        run.log(row)
        if rank == 0:
            tell(told, first=first_attempt, id=run.id, resumed_at=run.starting_step, **row)
        ray.train.report(row)
        if step == 1 and rank == 0 and first_attempt:
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def left_open(config: dict[str, Any]) -> None:
    """Logs in the worker; nobody ends the run but Ray, when it shuts the worker down."""
    import ray.train

    from mlflow_wandb_ray import setup_dual

    run = setup_dual(config, project=config["project"])
    for step in range(STEPS):
        row = {"loss": 1 / (step + 1), "at": step}
        run.log(row)
        if ray.train.get_context().get_world_rank() == 0:
            tell(Path(config["told"]), resumed_at=run.starting_step, **row)


def every_rank(config: dict[str, Any]) -> None:
    """Each rank has a run of its own, and ends it."""
    import ray.train

    from mlflow_wandb_ray import setup_dual

    rank = ray.train.get_context().get_world_rank()
    with setup_dual(config, rank_zero_only=False, project=config["project"]) as run:
        run.log({"rank": rank})
        tell(Path(config["told"]), id=run.id, rank=rank)


def fit(name: str, function: Any, retries: int = 0, torch: bool = False, **config: Any) -> str:
    """Train once; returns "finished" or the error's class."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    trainer: Any = DataParallelTrainer
    if torch:
        from ray.train.torch import TorchTrainer

        trainer = TorchTrainer
    os.environ["WANDB_PROJECT"] = name
    storage = Path.cwd() / "storage"
    try:
        trainer(
            function,
            train_loop_config={
                "told": str(Path.cwd() / f"{name}.told"), "project": name,
                "api_key": "a-secret-of-the-user", **config,
            },
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
            run_config=RunConfig(
                name=name,
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=retries),
            ),
        ).fit()  # fmt: skip
    except TrainingFailedError as error:
        return type(error).__name__
    return "finished"


CALLBACK = "mlflow_wandb_ray.DualTrainCallback"
SCENARIOS: dict[str, dict[str, Any]] = {
    "worker-dies": {"function": reporting, "retries": 1, "dies": 1},
    "rank-zero-dies": {"function": reporting, "retries": 1, "dies": 0},
    "retries-spent": {"function": reporting, "retries": 1, "dies": 1, "always": True},
    "in-worker": {"function": logging, "retries": 1, "callback": ""},
    "left-open": {"function": left_open, "callback": ""},
    "every-rank": {"function": every_rank, "callback": ""},
    "gloo": {"function": gloo, "torch": True},
    "no:home": {"function": reporting},
}


def main() -> None:
    outcomes = {}
    with small_ray():
        for name in sys.argv[1:]:
            scenario = dict(SCENARIOS[name])
            if scenario.get("torch") and find_spec("torch") is None:
                outcomes[name] = "no torch"
                continue
            os.environ["RAY_TRAIN_CALLBACKS"] = scenario.pop("callback", CALLBACK)
            outcomes[name] = fit(name, **scenario)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
