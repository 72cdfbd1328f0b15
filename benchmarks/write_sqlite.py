"""Points into a SQLite database of MLflow's: this project, its peers, and the driver alone.

    python -m benchmarks.write_sqlite [--runs 1] [--keys 50] [--steps 2000] [--rounds 5]
        [--peers 0]

`--peers 0` leaves out all but the limit: the others take minutes for a million points.
One run by default; the other figures of docs/performance.md are the same with other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import peers
from benchmarks.common import arguments, in_turns, private_place, show, stopwatch


def main() -> None:
    options = arguments(__doc__, runs=1, keys=50, steps=2000, rounds=5, peers=1)
    with private_place() as folder:
        stores = peers.SqliteStores(folder)
        runs = peers.make_runs(options.runs, options.keys, options.steps)
        points = sum(run.points for run in runs)

        def time_writer(write: Callable[[str, Any], None]) -> float:
            uri = stores.new()
            seconds = stopwatch(lambda: write(uri, runs))
            peers.check(uri, points)
            stores.drop(uri)
            return seconds

        writers = peers.writers(options.peers) | {
            "sqlite3 executemany, the limit": peers.raw_sqlite
        }
        taken = in_turns(
            {name: partial(time_writer, write) for name, write in writers.items()}, options.rounds
        )
        title = f"{options.runs} runs x {options.keys} keys x {options.steps} steps into sqlite"
        show(title, points, taken, peers.OURS)


if __name__ == "__main__":
    main()
