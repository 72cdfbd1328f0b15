"""Points through an `mlflow server`: this project and its peers, with 1 and with 4 workers.

    python -m benchmarks.write_server [--runs 1] [--keys 20] [--steps 1000] [--rounds 5]

The server's store is a SQLite database of its own. Its client and it share this machine's cores.
How many of them the server kept busy is told: one worker cannot use more than one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.common import (
    arguments,
    descendants_seconds,
    in_turns,
    median,
    private_place,
    row,
    show,
    stopwatch,
)
from tests.support.processes import mlflow_server

SETTLING_S = 30


def main() -> None:
    options = arguments(__doc__, runs=1, keys=20, steps=1000, rounds=5)
    runs = peers.make_runs(options.runs, options.keys, options.steps)
    with private_place() as folder:
        for workers in (1, 4):
            place = folder / f"{workers}"
            with mlflow_server(place, workers=workers) as url:
                measure(url, place, runs, options.rounds, workers)


def measure(url: str, place: Path, runs: list[peers.BenchRun], rounds: int, workers: int) -> None:
    from mlflow import MlflowClient

    points = sum(run.points for run in runs)
    database = f"sqlite:///{place / 'server.db'}"
    sent = 0
    at_work: dict[str, list[float]] = {}

    def time_writer(name: str, write: Callable[[str, Any], None]) -> float:
        nonlocal sent
        tag = uuid.uuid4().hex
        fresh = [replace(run, run_id=f"{tag}{run.run_id}") for run in runs]
        before = descendants_seconds()
        seconds = stopwatch(lambda: write(url, fresh))
        at_work.setdefault(name, []).append((descendants_seconds() - before) / seconds)
        sent += points
        peers.check(database, sent)
        # The next one begins with an empty experiment.
        client = MlflowClient(url)
        experiment = client.get_experiment_by_name("bench")
        assert experiment is not None
        client.rename_experiment(experiment.experiment_id, tag)
        return seconds

    # A server starts helpers of its own, which keep the cores busy for a while; and the first
    # requests of its workers are slow, whoever sends them.
    time.sleep(SETTLING_S)
    for _ in range(2 * workers):
        peers.log_batch(url, peers.make_runs(1, 10, 50))
        client = MlflowClient(url)
        experiment = client.get_experiment_by_name("bench")
        assert experiment is not None
        client.rename_experiment(experiment.experiment_id, uuid.uuid4().hex)
        sent += 500
    taken = in_turns(
        {name: partial(time_writer, name, write) for name, write in peers.writers().items()}, rounds
    )
    title = (
        f"{len(runs)} runs x {len(runs[0].values)} keys x {len(runs[0].steps)} steps, "
        f"server with {workers} workers"
    )
    show(title, points, taken, peers.OURS)
    for name, busy in at_work.items():
        row(f"  server processors busy: {name}", f"{median(busy):.2f}")


if __name__ == "__main__":
    main()
