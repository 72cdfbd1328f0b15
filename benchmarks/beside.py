"""How long MLflow's own `log_metric` waits on a SQLite database while a backfill writes into it.

    python -m benchmarks.beside [--runs 4] [--keys 20] [--steps 20000] [--rounds 3]

Another process logs a metric, rests for 20 ms, and again: its waits while nobody else writes, and
while the backfill does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from benchmarks import peers
from benchmarks.common import arguments, load, median, percentile, private_place, row

WRITER = """
import json, select, sys, time
from mlflow import MlflowClient

client = MlflowClient(sys.argv[1])
run_id = client.create_run("0").info.run_id
client.log_metric(run_id, "m", 0.0)
print("ready", flush=True)
taken = []
for step in range(100_000):
    began = time.time()
    client.log_metric(run_id, "m", 1.0, step=step)
    taken.append((began, time.time() - began))
    if select.select([sys.stdin], [], [], 0.02)[0]:
        break
print(json.dumps(taken))
"""


def main() -> None:
    options = arguments(__doc__, runs=4, keys=20, steps=20_000, rounds=3)
    with private_place() as folder:
        stores = peers.SqliteStores(folder)
        runs = peers.make_runs(options.runs, options.keys, options.steps)
        row(f"s a log_metric, {load()}", "median", "p99", "longest", "points/s")
        for _ in range(options.rounds):
            uri = stores.new()
            alone, beside, seconds = measure(uri, runs)
            points = sum(run.points for run in runs)
            show("alone", alone, "")
            show("beside a backfill", beside, f"{points / seconds:,.0f}")
            peers.check(uri, points)
            stores.drop(uri)


def show(name: str, waits: list[float], rate: str) -> None:
    figures = (median(waits), percentile(waits, 99), max(waits))
    row(f"  {name}", *(f"{figure:.3f}" for figure in figures), rate)


def measure(uri: str, runs: list[peers.BenchRun]) -> tuple[list[float], list[float], float]:
    """Waits before the backfill and while it goes on, and how long it took."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, uri],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=dict(os.environ), start_new_session=True,
    )  # fmt: skip
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(3)
        began = time.time()
        peers.this_project(uri, runs)
        ended = time.time()
        out, _ = writer.communicate("stop\n", timeout=60)
    finally:
        writer.kill()
        writer.wait()
    taken = [(at, wait) for at, wait in json.loads(out) if at < ended]
    alone = [wait for at, wait in taken if at + wait < began]
    return alone, [wait for at, wait in taken if at + wait >= began], ended - began


if __name__ == "__main__":
    main()
