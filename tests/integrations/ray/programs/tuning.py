"""Tune on a real Ray: trials, a restore after the driver was cut short, and PBT with checkpoints.

Each part uses a W&B project of its own name. The last line of output is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.integrations.ray.programs.cluster import next_step, small_ray, tell

ITERATIONS = 4


def train(config: dict[str, Any]) -> None:
    """Goes on from its checkpoint. The trial with ``fails`` fails once at its third iteration."""
    from ray import tune

    told = Path(config["told"])
    trial = tune.get_context().get_trial_id()
    tell(told.with_suffix(".started"), trial=trial, lr=config["lr"])
    for step in range(next_step(), ITERATIONS):
        failed = told.with_suffix(".failed")
        if step == 2 and config.get("fails") and not failed.exists():
            failed.touch()
            raise RuntimeError("as intended")
        row = {"score": config["lr"] * (step + 1), "nested": {"step": step}}
        tell(told, trial=trial, lr=config["lr"], **row)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state.json").write_text(json.dumps({"next": step + 1}))
            tune.report(row, checkpoint=tune.Checkpoint.from_directory(folder))


def callback(name: str, **options: Any) -> Any:
    from mlflow_wandb_ray import DualLoggerCallback

    return DualLoggerCallback(project=name, experiment_name=f"of {name}", **options)


def outcome(results: Any) -> dict[str, Any]:
    """Errors of the trials, empty where there are none, and by trial the iterations of the
    checkpoints that Tune kept."""
    kept = {}
    for one in results:
        # The metrics' own trial id is another one's where that one was copied.
        trial = "_".join(Path(one.path).name.split("_")[1:3])
        kept[trial] = [at["training_iteration"] for _, at in one.best_checkpoints]
    return {"errors": [str(one.error or "") for one in results], "kept": kept}


def fail_and_restore(name: str) -> dict[str, Any]:
    """One of two trials fails; the experiment is restored with another Tuner, which goes on."""
    from ray import tune

    storage = Path.cwd() / "storage"
    told = str(Path.cwd() / f"{name}.told")
    space = {"lr": tune.grid_search([0.5, 2.0]), "told": told, "fails": tune.sample_from(_fails)}
    tune.Tuner(
        train,
        param_space=space,
        run_config=tune.RunConfig(
            name=name, storage_path=str(storage), callbacks=[callback(name)], verbose=0
        ),
    ).fit()
    again = tune.Tuner.restore(str(storage / name), train, resume_errored=True)
    return outcome(again.fit())


def _fails(config: Any) -> bool:
    return bool(config["lr"] == 2.0)


def population(name: str) -> dict[str, Any]:
    """PBT gives a trial another one's checkpoint and params: where it draws, both differ from
    what the trials began with, so a trial that is taken over has a new one."""
    from ray import tune
    from ray.tune.schedulers import PopulationBasedTraining

    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        metric="score",
        mode="max",
        perturbation_interval=2,
        hyperparam_mutations={"lr": [1.0, 7.0]},
        quantile_fraction=0.5,
        resample_probability=1.0,
        synch=True,
        require_attrs=False,
    )
    results = tune.Tuner(
        train,
        param_space={
            "lr": tune.grid_search([0.5, 3.0]),
            "told": str(Path.cwd() / f"{name}.told"),
        },
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=2),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(Path.cwd() / "storage"),
            callbacks=[callback(name, upload_checkpoints=True)],
            verbose=0,
        ),
    ).fit()
    return outcome(results)


def main() -> None:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    parts = {"restore": fail_and_restore, "population": population}
    said = {}
    with small_ray():
        for name in sys.argv[1:]:
            said[name] = parts[name](name)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
