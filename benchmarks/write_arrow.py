"""Points as Arrow through an `mlflow server` behind `fast+`; wandb-to-mlflow's through a plain one.

    python -m benchmarks.write_arrow [--runs 1] [--keys 20] [--steps 5000] [--rounds 5]

One worker on SQLite, four on PostgreSQL; each server has a database of its own. This project sends
its points to the plain server, too, by log-batch. Both servers run all the time, and share this
machine's cores with the client.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks import peers
from benchmarks.common import arguments, private_place
from benchmarks.peers import Writer
from benchmarks.write_server import Server, race
from tests.support.postgres import postgres_server
from tests.support.processes import mlflow_server

WORKERS = {"sqlite": 1, "postgresql": 4}
BY_LOG_BATCH = "this project, to the plain server"


def main() -> None:
    options = arguments(__doc__, runs=1, keys=20, steps=5000, rounds=5)
    runs = peers.make_runs(options.runs, options.keys, options.steps)
    with private_place() as folder:
        for database, workers in WORKERS.items():
            with (
                served("", database, folder / f"{database}-plain") as plain,
                served("fast+", database, folder / f"{database}-fast") as fast,
            ):
                entrants: dict[str, tuple[Writer, Server]] = {
                    peers.OURS: (peers.this_project, fast),
                    BY_LOG_BATCH: (peers.this_project, plain),
                }
                entrants |= {name: (write, plain) for name, write in peers.other_tool().items()}
                where = f"{workers} workers on {database}"
                race(entrants, runs, options.rounds, where, workers)


@contextlib.contextmanager
def served(prefix: str, database: str, folder: Path) -> Iterator[Server]:
    """A server in ``folder``, and its database."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        if database == "sqlite":
            uri = f"sqlite:///{folder / 'server.db'}"
        else:
            uri = stack.enter_context(postgres_server())
        url = stack.enter_context(
            mlflow_server(folder, workers=WORKERS[database], uri=f"{prefix}{uri}")
        )
        yield Server(url, uri)


if __name__ == "__main__":
    main()
