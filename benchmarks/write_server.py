"""Points through an `mlflow server`: this project and its peers, with 1 and with 4 workers.

    python -m benchmarks.write_server [--runs 1] [--keys 20] [--steps 1000] [--rounds 5]

The server's store is a SQLite database of its own. Its client and it share this machine's cores.
How many of them the server kept busy is told: one worker cannot use more than one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

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
from benchmarks.peers import Writer
from mlflow_wandb_plugin.core import identity
from tests.support.processes import mlflow_server

SETTLING_S = 30


def main() -> None:
    options = arguments(__doc__, runs=1, keys=20, steps=1000, rounds=5)
    runs = peers.make_runs(options.runs, options.keys, options.steps)
    with private_place() as folder:
        for workers in (1, 4):
            place = folder / f"{workers}"
            with mlflow_server(place, workers=workers) as url:
                server = Server(url, f"sqlite:///{place / 'server.db'}")
                entrants = {name: (write, server) for name, write in peers.writers().items()}
                race(entrants, runs, options.rounds, f"server with {workers} workers", workers)


class Server:
    """A server that writers are sent to, one after the other; each finds an empty experiment."""

    def __init__(self, url: str, database: str) -> None:
        self._url, self._database = url, database
        self._sent = 0

    def warm_up(self, workers: int) -> None:
        """Send some points: the first requests of workers are slow, whoever sends them."""
        for _ in range(2 * workers):
            peers.log_batch(self._url, peers.make_runs(1, 10, 50))
            self._sent += 500
            self._set_aside(uuid.uuid4().hex)

    def write(self, write: Writer, runs: list[peers.BenchRun]) -> float:
        """The seconds that a writer takes; all points are there afterwards."""
        tag = uuid.uuid4().hex
        fresh = [replace(run, run_id=f"{tag}{run.run_id}") for run in runs]
        seconds = stopwatch(lambda: write(self._url, fresh))
        self._sent += sum(run.points for run in runs)
        peers.check(self._database, self._sent)
        self._set_aside(tag)
        return seconds

    def _set_aside(self, name: str) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(self._url)
        experiment = client.get_experiment_by_name("bench")
        assert experiment is not None
        client.rename_experiment(experiment.experiment_id, name)
        # This project finds an experiment by its tag, too.
        client.set_experiment_tag(experiment.experiment_id, identity.EXPERIMENT, name)


def race(
    entrants: Mapping[str, tuple[Writer, Server]],
    runs: list[peers.BenchRun],
    rounds: int,
    where: str,
    workers: int,
) -> None:
    """Let writers write the same runs, each to its server, and show who was how fast, and how many
    processors the servers kept busy."""
    # A server starts helpers of its own, which keep the cores busy for a while.
    time.sleep(SETTLING_S)
    for server in {server for _, server in entrants.values()}:
        server.warm_up(workers)
    at_work: dict[str, list[float]] = {}

    def time_writer(name: str, write: Writer, server: Server) -> float:
        before = descendants_seconds()
        seconds = server.write(write, runs)
        at_work.setdefault(name, []).append((descendants_seconds() - before) / seconds)
        return seconds

    taken = in_turns(
        {name: partial(time_writer, name, *entrant) for name, entrant in entrants.items()}, rounds
    )
    shape = f"{len(runs)} runs x {len(runs[0].values)} keys x {len(runs[0].steps)} steps"
    show(f"{shape}, {where}", sum(run.points for run in runs), taken, peers.OURS)
    for name, busy in at_work.items():
        row(f"  server processors busy: {name}", f"{median(busy):.2f}")


if __name__ == "__main__":
    main()
