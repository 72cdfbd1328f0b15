"""A Tune experiment that is begun in one process, which is killed, and restored in another.

The arguments are ``begin`` or ``restore``, and the experiment's name. ``begin`` holds each trial
behind a report that no checkpoint covers, until it is killed. The last line of output of
``restore`` is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.integrations.ray.programs.cluster import next_step, small_ray, tell

ITERATIONS, HELD_AT, SAVED_EVERY = 6, 3, 2
LONGER_THAN_THE_TEST_S = 600


def train(config: dict[str, Any]) -> None:
    """Saves every second iteration. A trial of the first session is held after its third."""
    from ray import tune

    trial, told = tune.get_context().get_trial_id(), Path(config["told"])
    restoring = told.with_suffix(".restoring").exists()
    for step in range(next_step(), ITERATIONS):
        if step == HELD_AT and not restoring:
            threading.Event().wait(LONGER_THAN_THE_TEST_S)
        row = {"score": config["lr"] * (step + 1), "session": int(restoring)}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state.json").write_text(json.dumps({"next": step + 1}))
            whole = (step + 1) % SAVED_EVERY == 0
            tune.report(row, checkpoint=tune.Checkpoint.from_directory(folder) if whole else None)
        tell(told, trial=trial, iteration=step + 1, **row)


def begin(name: str, storage: Path) -> None:
    from ray import tune

    from mlflow_wandb_ray import DualLoggerCallback

    tune.Tuner(
        train,
        param_space={
            "lr": tune.grid_search([0.5, 2.0]),
            "told": str(Path.cwd() / f"{name}.told"),
        },
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(storage),
            callbacks=[DualLoggerCallback(project=name)],
            verbose=0,
        ),
    ).fit()


def restore(name: str, storage: Path) -> list[str]:
    """Returns the errors of the trials, empty where there are none."""
    from ray import tune

    (Path.cwd() / f"{name}.restoring").touch()
    results = tune.Tuner.restore(str(storage / name), train).fit()
    return [str(one.error or "") for one in results]


def main() -> None:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # Tune saves its state often: that it has a checkpoint need not take ten seconds.
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "0.5"
    with small_ray():
        parts = {"begin": begin, "restore": restore}
        said = parts[sys.argv[1]](sys.argv[2], Path.cwd() / "storage")
    print(json.dumps(said))


if __name__ == "__main__":
    main()
