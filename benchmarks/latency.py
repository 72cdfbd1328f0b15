"""From `log()` to visible in MLflow: a trainer at 100 steps/s with 10 keys, a reader beside it.

    python -m benchmarks.latency [--steps 2000]

Prints the median, p99 and maximum in seconds over all steps: the time between the return of
`log()` and the first look at the MLflow store (every 50 ms) that finds the step there.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import median, percentile, private_place, row

TRAINER = """
import sys, time
import mlflow_wandb_plugin.wandb as wandb

run = wandb.init(project="latency")
print("ready", flush=True)
data = {f"metric_{n}": 0.0 for n in range(10)}
begin = time.time()
for step in range(int(sys.argv[1])):
    run.log({**data, "metric_0": float(step)})
    print(step, time.time(), flush=True)
    time.sleep(max(0.0, begin + (step + 1) * 0.01 - time.time()))
run.finish()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    steps = parser.parse_args().steps
    with private_place() as folder:
        seconds = measure(folder, steps)
    row("seconds from log() to MLflow", "median", "p99", "max")
    row(
        f"{steps} steps at 100/s, 10 keys",
        f"{median(seconds):.2f}",
        f"{percentile(seconds, 99):.2f}",
        f"{max(seconds):.2f}",
    )


def measure(folder: Path, steps: int) -> list[float]:
    script, printed = folder / "train.py", folder / "printed"
    script.write_text(TRAINER)
    with open(printed, "w") as out:
        trainer = subprocess.Popen(
            [sys.executable, str(script), str(steps)],
            stdout=out, env=dict(os.environ), start_new_session=True,
        )  # fmt: skip
        try:
            seen = watch(folder / "mlflow.db", trainer, steps)
        finally:
            trainer.kill()
            trainer.wait()
    lines = [line.split() for line in printed.read_text().splitlines()[1:]]
    logged = {int(line[0]): float(line[1]) for line in lines if len(line) == 2}
    return [seen[step] - logged[step] for step in logged if step in seen]


def watch(database: Path, trainer: subprocess.Popen[bytes], steps: int) -> dict[int, float]:
    """When each step was first seen in the store, Unix seconds."""
    seen: dict[int, float] = {}
    deadline = time.time() + steps * 0.01 + 120
    while len(seen) < steps and time.time() < deadline:
        newest = newest_step(database)
        now = time.time()
        for step in range(len(seen), newest + 1):
            seen[step] = now
        if trainer.poll() is not None and newest + 1 >= steps:
            break
        time.sleep(0.05)
    return seen


def newest_step(database: Path) -> int:
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5) as connection:
            found = connection.execute("select max(step) from metrics where key = 'metric_0'")
            return int(found.fetchone()[0])
    except (sqlite3.Error, TypeError):
        return -1


if __name__ == "__main__":
    main()
