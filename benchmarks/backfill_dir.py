"""A whole `backfill ./wandb` of one long run into SQLite, and its peak memory.

    python -m benchmarks.backfill_dir [--steps 100000] [--keys 20] [--rounds 5] [--runs 1]

Against the driver alone, which gets the same points as finished Python objects. The backfill is a
child, so that its memory is its own; its time is without the imports. Linux only. With several runs
the limit writes as many points.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import peers
from benchmarks.common import arguments, in_turns, median, private_place, row, show, stopwatch
from benchmarks.read_speed import write_log

BACKFILL = """
import json, os, re, sys, time
import mlflow_wandb_plugin

began = time.perf_counter()
outcomes = mlflow_wandb_plugin.backfill(sys.argv[1], sys.argv[2])
seconds = time.perf_counter() - began
assert all(outcome.action == "migrated" for outcome in outcomes), outcomes
# Not getrusage: its figure begins with the memory of the process that started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps([sum(outcome.points for outcome in outcomes), seconds, peak]))
"""


def main() -> None:
    options = arguments(__doc__, steps=100_000, keys=20, rounds=5, runs=1)
    with private_place() as folder:
        for number in range(options.runs):
            place = folder / "wandb" / f"offline-run-20260101_00000{number}-bench{number}"
            place.mkdir(parents=True)
            write_log(place / f"run-bench{number}.wandb", options.steps, options.keys, number)
        stores = peers.SqliteStores(folder)
        points = options.runs * options.keys * options.steps
        runs = peers.make_runs(options.runs, options.keys, options.steps)
        peaks: list[float] = []

        def backfill() -> float:
            uri = stores.new()
            seconds, peak = in_a_child(folder / "wandb", uri, points)
            peaks.append(peak)
            stores.drop(uri)
            return seconds

        def limit() -> float:
            uri = stores.new()
            seconds = stopwatch(lambda: peers.raw_sqlite(uri, runs))
            stores.drop(uri)
            return seconds

        taken = in_turns(
            {"backfill ./wandb": backfill, "sqlite3 executemany, the limit": limit},
            options.rounds,
        )
        title = f"{options.runs} runs x {options.keys} keys x {options.steps} steps, whole backfill"
        show(title, points, taken, "backfill ./wandb")
        row("  peak memory, MB", f"{median(peaks):.0f}", "", f"{min(peaks):.0f}-{max(peaks):.0f}")


def in_a_child(source: Path, uri: str, points: int) -> tuple[float, float]:
    """Seconds and peak memory in MB of a backfill."""
    done = subprocess.run(
        [sys.executable, "-c", BACKFILL, str(source), uri],
        env=dict(os.environ), capture_output=True, text=True, check=True,
    )  # fmt: skip
    carried, seconds, peak = json.loads(done.stdout.splitlines()[-1])
    assert carried == points, carried
    return float(seconds), float(peak)


if __name__ == "__main__":
    main()
