"""Many runs into PostgreSQL, carried by threads and by processes: the whole command.

python -m benchmarks.across_runs [--runs 8] [--keys 20] [--steps 12500] [--rounds 5]

Both with their defaults. PostgreSQL's processes share this machine's cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.common import arguments, in_turns, private_place, show, stopwatch
from benchmarks.read_speed import write_log
from benchmarks.write_postgres import Databases
from tests.support.postgres import postgres_server

ENGINES = ("local", "processes")


def main() -> None:
    options = arguments(__doc__, runs=8, keys=20, steps=12_500, rounds=5)
    points = options.runs * options.keys * options.steps
    with private_place() as folder, postgres_server() as server:
        for number in range(options.runs):
            place = folder / "wandb" / f"offline-run-20260101_00000{number}-bench{number}"
            place.mkdir(parents=True)
            write_log(place / f"run-bench{number}.wandb", options.steps, options.keys, number)
        databases = Databases(server)

        def carried_by(engine: str) -> float:
            uri = databases.new()
            return stopwatch(lambda: backfill(folder / "wandb", uri, engine, points))

        taken = in_turns({name: partial(carried_by, name) for name in ENGINES}, options.rounds)
        cpus = len(os.sched_getaffinity(0))
        title = f"{options.runs} runs x {options.keys} x {options.steps}, PostgreSQL, {cpus} CPUs"
        show(title, points, taken, "processes")


def backfill(source: Path, uri: str, engine: str, points: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlflow_wandb_plugin.cli", "backfill", str(source), "--to", uri,
         "--engine", engine, "--json"],
        env=dict(os.environ), capture_output=True, text=True,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    carried = sum(run["points"] for run in json.loads(done.stdout)["runs"])
    assert carried == points, done.stdout


if __name__ == "__main__":
    main()
