"""Many runs into PostgreSQL, carried by threads and by processes: the whole command.

python -m benchmarks.across_runs [--runs 8] [--keys 20] [--steps 12500] [--rounds 5]

Both with their defaults, on all cores, which PostgreSQL's processes share; and by threads where
PostgreSQL and the command together have one core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.common import arguments, in_turns, private_place, show, stopwatch
from benchmarks.read_speed import write_log
from benchmarks.write_postgres import Databases
from tests.support.postgres import postgres_server

THREADS, PROCESSES = "local", "processes"


def main() -> None:
    options = arguments(__doc__, runs=8, keys=20, steps=12_500, rounds=5)
    points = options.runs * options.keys * options.steps
    cores = os.sched_getaffinity(0)
    # What is started on some cores stays there: a server of its own for the one core.
    with private_place() as folder, postgres_server() as server:
        with on_cores({min(cores)}), postgres_server() as server_on_one:
            for number in range(options.runs):
                place = folder / "wandb" / f"offline-run-20260101_00000{number}-bench{number}"
                place.mkdir(parents=True)
                write_log(place / f"run-bench{number}.wandb", options.steps, options.keys, number)
            databases, on_one = Databases(server), Databases(server_on_one)

            def carried(engine: str, where: Databases, cpus: set[int]) -> float:
                with on_cores(cpus):
                    uri = where.new()
                    return stopwatch(lambda: backfill(folder / "wandb", uri, engine, points))

            ways = {
                "threads": partial(carried, THREADS, databases, cores),
                "threads, all on one core": partial(carried, THREADS, on_one, {min(cores)}),
                "processes": partial(carried, PROCESSES, databases, cores),
            }
            taken = in_turns(ways, options.rounds)
            title = f"{options.runs} runs x {options.keys} x {options.steps}, PostgreSQL"
            show(f"{title}, {len(cores)} CPUs", points, taken, "threads")


@contextmanager
def on_cores(cpus: set[int]) -> Iterator[None]:
    """Keep this thread, and what it starts, on some of the machine's cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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
