"""Many trials, one after another, as Tune tells the callback of them; what is left of each.

Arguments: the number of trials, and the W&B project. ``python -m
tests.integrations.ray.programs.many_trials 1000 many`` prints a line for each tenth of the trials;
the last line of output is JSON.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from mlflow_wandb_ray import DualLoggerCallback
from tests.integrations.ray.programs.cluster import trial_of

KINDS = ("Run", "RunTap", "Journal", "RunThread", "Trial")


def left_behind() -> dict[str, int]:
    """Threads, open files, memory in KiB, and objects of the kinds that a trial has."""
    gc.collect()
    kinds = Counter(type(found).__name__ for found in gc.get_objects())
    status = Path("/proc/self/status").read_text()
    memory = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return {
        "threads": threading.active_count(), "files": len(os.listdir("/proc/self/fd")),
        "kib": int(memory), **{kind: kinds[kind] for kind in KINDS},
    }  # fmt: skip


def main() -> None:
    trials, project = int(sys.argv[1]), sys.argv[2]
    callback = DualLoggerCallback(project)
    callback.setup()
    found: list[dict[str, Any]] = []
    for number in range(trials):
        trial = trial_of(project, {"lr": number}, f"abcde_{number:05}")
        callback.log_trial_start(trial)
        callback.log_trial_result(1, trial, {"training_iteration": 1, "loss": float(number)})
        callback.log_trial_end(trial)
        for thread in callback._ending:
            thread.wait()
        del trial
        if (number + 1) % max(1, trials // 10) == 0:
            callback._note_ended()
            found.append({"trials": number + 1} | left_behind())
            print(found[-1], flush=True)
    callback.on_experiment_end([])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
