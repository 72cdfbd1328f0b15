"""A Tune experiment that is begun in one process, which is killed, and restored in another.

``begin`` waits in each trial, with a report that no checkpoint covers yet, until it is killed.
The last line of output of ``restore`` is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.integrations.ray.programs.cluster import small_ray, tell

ITERATIONS, CUT_AT, SAVE_EVERY = 6, 3, 2
NEVER_S = 600


def train(config: dict[str, Any]) -> None:
    """Saves every second iteration; while the session is the first, waits behind the third."""
    from ray import tune

    work = Path(config["work"])
    trial = tune.get_context().get_trial_id()
    start = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            start = json.loads((Path(folder) / "state.json").read_text())["next"]
    session = 2 if (work / "restoring").exists() else 1
    for step in range(start, ITERATIONS):
        if session == 1 and step == CUT_AT:
            threading.Event().wait(NEVER_S)
        row = {"score": config["lr"] * (step + 1), "session": session}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state.json").write_text(json.dumps({"next": step + 1}))
            saved = tune.Checkpoint.from_directory(folder) if (step + 1) % SAVE_EVERY == 0 else None
            tune.report(row, checkpoint=saved)
        # Tune asks for the next report once it has handled this one.
        tell(work / "reported.told", trial=trial, iteration=step + 1, **row)


def callback() -> Any:
    from mlflow_wandb_ray import DualLoggerCallback

    return DualLoggerCallback(project="killed")


def begin() -> None:
    from ray import tune

    tune.Tuner(
        train,
        param_space={"lr": tune.grid_search([0.5, 2.0]), "work": str(Path.cwd())},
        run_config=tune.RunConfig(
            name="killed", storage_path=str(Path.cwd() / "storage"), callbacks=[callback()],
            verbose=0,
        ),
    ).fit()  # fmt: skip


def restore() -> list[str]:
    """Returns the errors of the trials, empty where there are none."""
    from ray import tune

    (Path.cwd() / "restoring").touch()
    folder = str(Path.cwd() / "storage" / "killed")
    results = tune.Tuner.restore(folder, train, resume_unfinished=True).fit()
    return [str(one.error or "") for one in results]


def main() -> None:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    said: Any = None
    with small_ray():
        if sys.argv[1] == "begin":
            begin()
        else:
            said = restore()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
