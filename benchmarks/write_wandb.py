"""How fast runs are written into W&B, and in how much memory: by the transaction log that this
package writes and wandb-core uploads, and by calls of wandb's SDK, into one loopback server.
And how fast many runs of MLflow are planned.

python -m benchmarks.write_wandb [--runs 200] [--rows 1000] [--keys 5] [--points 1000000]
                                 [--planned 10000]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import arguments, load, private_place, row
from benchmarks.read_mlflow import make_store

WRITE = """
import json, os, resource, sys, time
from pathlib import Path
from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.core.model import Checkpoint, RunInfo, Selection, Series, Size
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.plugins import open_target

way, uri, runs, rows, keys = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
BLOCK = max(1, 100_000 // keys)
START_MS = 1_600_000_000_000


class Synthetic(Source):
    def runs(self, selection):
        for number in range(runs):
            yield RunInfo(f"{way}-{runs}-{number}", "p", state="finished", started_ms=START_MS,
                          ended_ms=START_MS + 1000 * rows, segments=("s",))

    def size(self, run):
        return Size()

    def read(self, run, since):
        for start in range(0, rows, BLOCK):
            steps = range(start, min(start + BLOCK, rows))
            times = [START_MS + 1000 * step for step in steps]
            for key in range(keys):
                yield Series((f"m{key}",), steps, times, [step / 7 + key for step in steps])
            yield Checkpoint("s", steps[-1] + 1)
        yield run


def by_log():
    options = BackfillOptions(workers=4)
    outcomes = list(backfill(Synthetic(), open_target(uri), Selection(), options))
    assert [outcome.action for outcome in outcomes] == ["migrated"] * runs, outcomes


def by_sdk():
    import wandb

    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True,
                              x_disable_meta=True, disable_git=True, disable_code=True)
    for info in Synthetic().runs(Selection()):
        run = wandb.init(project="p", id=info.run_id, settings=settings, reinit="create_new")
        for step in range(rows):
            at = START_MS / 1000 + step
            run.log({**{f"m{key}": step / 7 + key for key in range(keys)}, "_timestamp": at}, step)
        run.finish()


began = time.perf_counter()
by_log() if way == "log" else by_sdk()
seconds = time.perf_counter() - began


def peak_of_children():
    # wandb-core is still running: its peak is not in this process's accounts.
    peaks = []
    for status in Path("/proc").glob("[0-9]*/status"):
        text = status.read_text()
        if "Name:\\twandb-core" in text and f"PPid:\\t{os.getpid()}" in text:
            peaks += [int(line.split()[1]) for line in text.splitlines() if "VmHWM" in line]
    return max(peaks, default=0) / 1024


peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, peak, peak_of_children()]), flush=True)
"""
PLAN = """
import json, resource, sys, time
from mlflow_wandb_plugin.backfill.execution import Backfill, jobs_of
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.core.model import Selection

began = time.perf_counter()
selection = Selection(experiments=("many",))
jobs = jobs_of(sys.argv[1], sys.argv[2], "{project}", selection, BackfillOptions())
planned = Backfill(jobs, only_plan=True).plan()
seconds = time.perf_counter() - began
points = sum(one.size.points for one in planned)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, peak, len(planned), points]))
"""
SERVE = """
import json, sys
from tests.wandb_server import WandbServer

with WandbServer(sys.argv[1]) as server:
    print(json.dumps(server.env(sys.argv[2])), flush=True)
    sys.stdin.read()
"""


def main() -> None:
    given = arguments(__doc__, runs=200, rows=1000, keys=5, points=1_000_000, planned=10_000)
    with private_place() as place:
        command = [sys.executable, "-c", SERVE, str(place / "server"), str(place / "client")]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            env = json.loads(server.stdout.readline())
            try:
                measure(place, env, given.runs, given.rows, given.keys, given.points)
                measure_plan(place, env, given.planned)
            finally:
                server.kill()


def measure(place: Path, env: dict[str, str], runs: int, rows: int, keys: int, points: int) -> None:
    uri = f"wandb+{env['WANDB_BASE_URL']}/{env['WANDB_ENTITY']}/p"
    print(f"{load()}, {time.strftime('%Y-%m-%d')}")
    row("what", "way", "seconds", "peak MB", "wandb-core MB")
    for what, sizes in (
        (f"{runs} runs x {rows} rows x {keys} keys", (runs, rows, keys)),
        (f"1 run of {points:,} points", (1, points, 1)),
    ):
        for way in ("log", "sdk"):
            done = subprocess.run(
                [sys.executable, "-c", WRITE, way, uri, *map(str, sizes)],
                env=os.environ | env, cwd=place, capture_output=True, text=True, check=True,
            )  # fmt: skip
            seconds, peak, core = json.loads(done.stdout.splitlines()[-1])
            row(what, way, f"{seconds:.1f}", f"{peak:.0f}", f"{core:.0f}")


def measure_plan(place: Path, env: dict[str, str], runs: int) -> None:
    store = f"sqlite:///{place}/planned.db"
    make_store(store, 1000, 10, runs)
    add_points(store, 100)
    uri = f"wandb+{env['WANDB_BASE_URL']}/{env['WANDB_ENTITY']}"
    done = subprocess.run(
        [sys.executable, "-c", PLAN, store, uri],
        env=os.environ | env, cwd=place, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, peak, count, points = json.loads(done.stdout.splitlines()[-1])
    row(f"plan of {count:,} MLflow runs, {points:,} points", "", f"{seconds:.1f}", f"{peak:.0f}")


def add_points(store: str, count: int) -> None:
    """Give each metric of the store's short runs ``count`` points."""
    import sqlalchemy

    statement = (
        "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count) "
        "SELECT m.key, m.value, m.timestamp + n.i, m.step + n.i, 0, m.run_uuid "
        "FROM latest_metrics m JOIN runs r ON r.run_uuid = m.run_uuid JOIN n "
        "WHERE r.experiment_id = (SELECT experiment_id FROM experiments WHERE name = 'many')"
    )
    with sqlalchemy.create_engine(store).begin() as connection:
        connection.execute(sqlalchemy.text(statement), {"count": count})


if __name__ == "__main__":
    main()
