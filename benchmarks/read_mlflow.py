"""How fast runs are read from MLflow, and in how much memory: one long run from a SQLite database
and from a server on it, and a list of many runs.

python -m benchmarks.read_mlflow [--points 1000000] [--keys 20] [--runs 10000]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import arguments, load, private_place, row
from tests.support.processes import mlflow_server

START_MS = 1_700_000_000_000
READ = """
import json, resource, sys, time
from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.core.model import Selection, Series

source = plugins.open_source(sys.argv[1])
began = time.perf_counter()
runs = points = 0
for run in source.runs(Selection(experiments=(sys.argv[2],))):
    runs += 1
    if sys.argv[3] == "read":
        points += sum(len(item.values) for item in source.read(run, {}) if isinstance(item, Series))
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, peak, runs, points]))
"""


def make_store(uri: str, points: int, keys: int, runs: int) -> None:
    """Write the long run in bulk, and the short ones with a param, a tag and a metric each."""
    import sqlalchemy
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    long = client.create_run(client.create_experiment("long"), start_time=START_MS).info.run_id
    client.set_terminated(long, end_time=START_MS + points)
    many = int(client.create_experiment("many"))
    names = [f"metric_{number:03d}" for number in range(keys)]
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        for start in range(0, points // keys, 5_000):
            steps = range(start, min(start + 5_000, points // keys))
            _insert(
                connection,
                "metrics (key, value, timestamp, step, is_nan, run_uuid)",
                [(name, 1 / (n + 1), START_MS + n, n, 0, long) for n in steps for name in names],
            )
        _insert(
            connection,
            "latest_metrics (key, value, timestamp, step, is_nan, run_uuid)",
            [(name, 0.5, START_MS, points // keys, 0, long) for name in names],
        )
        ids = [f"{number:032x}" for number in range(runs)]
        columns = (
            "run_uuid, name, user_id, status, start_time, end_time, lifecycle_stage, experiment_id"
        )
        rows = [
            (run_id, f"run {number}", "me", "FINISHED", START_MS + number, START_MS + number + 5,
             "active", many)
            for number, run_id in enumerate(ids)
        ]  # fmt: skip
        _insert(connection, f"runs ({columns})", rows)
        _insert(connection, "params (key, value, run_uuid)", [("lr", "0.1", one) for one in ids])
        _insert(connection, "tags (key, value, run_uuid)", [("team", "a", one) for one in ids])
        latest = [("loss", 0.5, START_MS, 1, 0, one) for one in ids]
        _insert(
            connection, "latest_metrics (key, value, timestamp, step, is_nan, run_uuid)", latest
        )
    engine.dispose()


def _insert(connection: object, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    marks = ", ".join("?" * len(rows[0]))
    connection.exec_driver_sql(f"INSERT INTO {into} VALUES ({marks})", list(rows))  # type: ignore[attr-defined]


def measured(uri: str, experiment: str, what: str) -> list[float]:
    """Seconds, peak memory in MB, runs and points of a process that reads or lists."""
    command = [sys.executable, "-c", READ, uri, experiment, what]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=1800)
    return [float(number) for number in json.loads(done.stdout.splitlines()[-1])]


def show(title: str, figures: Sequence[float], unit: int) -> None:
    seconds, peak, *counts = figures
    rate = f"{counts[unit] / seconds:,.0f}"
    row(title, f"{counts[unit]:,.0f}", f"{seconds:.1f} s", rate, f"{peak:.0f} MB")


def main() -> None:
    options = arguments(__doc__, points=1_000_000, keys=20, runs=10_000)
    with private_place() as folder:
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        began = time.perf_counter()
        make_store(uri, options.points, options.keys, options.runs)
        print(f"made in {time.perf_counter() - began:.0f} s", flush=True)
        row(f"reading MLflow, {load()}", "number", "time", "a second", "peak RSS")
        show("  one run, from SQLite", measured(uri, "long", "read"), 1)
        show("  a list of runs, from SQLite", measured(uri, "many", "list"), 0)
        with mlflow_server(Path(folder, "server"), uri=uri) as url:
            show("  one run, from a server", measured(url, "long", "read"), 1)
            show("  a list of runs, from a server", measured(url, "many", "list"), 0)


if __name__ == "__main__":
    main()
