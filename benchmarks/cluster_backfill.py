"""A backfill's limits, one by one: runs and points a second, requests a run, bytes a point.

Source is the tests' W&B server, in this process; the target is an `mlflow server` on PostgreSQL, or
that database itself. Runs are carried by threads, and by Ray on one and two nodes of one CPU each:
nodes of one machine share its CPUs with both servers. Needs the extra `dev`. Run from the project's
folder: ``python -m benchmarks.cluster_backfill [RUNS [STEPS]]``.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import private_place, row
from tests.support.postgres import postgres_server
from tests.support.processes import mlflow_server
from tests.wandb_server import WandbServer

KEYS = 5
SMALL_STEPS = 20
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
small = {"num_cpus": 1, "object_store_memory": 100_000_000}
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
try:
    for _ in range(int(sys.argv[1]) - 1):
        cluster.add_node(**small)
    cluster.wait_for_nodes(60)
    print("address", cluster.address, flush=True)
    sys.stdin.read()
finally:
    cluster.shutdown()
"""
NO_OP = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
task = ray.remote(lambda: None)
ray.get([task.remote() for _ in range(20)])
began = time.perf_counter()
ray.get([task.remote() for _ in range(500)])
print((time.perf_counter() - began) / 500 * 1000)
"""


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 50_000
    with private_place() as folder, WandbServer(folder / "wandb") as wandb:
        os.environ |= {"WANDB_API_KEY": wandb.api_key, "RAY_USAGE_STATS_ENABLED": "0"}
        for index in range(runs):
            rows = ({f"key{k}": 1 / (i + 1) for k in range(KEYS)} for i in range(SMALL_STEPS))
            wandb.add_run("small", f"small-{index:04d}", rows=rows)
        wandb.add_long_history(wandb.add_run("long", "long"), steps, KEYS)
        with postgres_server() as database:
            with mlflow_server(folder / "mlflow", workers=2, uri=database) as url:
                _small(wandb, folder, url, runs)
                _long(wandb, folder, url, f"{steps:,} x {KEYS}, API", steps)
            before = _bytes(database)
            _long(wandb, folder, database, f"{steps:,} x {KEYS}, database", steps, "bulk")
            row(
                "bytes a point, in the database",
                f"{(_bytes(database) - before) / steps / KEYS:.0f}",
            )


def _small(wandb: WandbServer, folder: Path, url: str, runs: int) -> None:
    row(f"{runs} runs of {SMALL_STEPS * KEYS} points", "s", "runs/s", "W&B/run", "MLflow/run")
    log = folder / "mlflow" / "server.log"
    _measured("4 threads", wandb, log, ["--workers", "4"], url, runs, "threads")
    for nodes in (1, 2):
        with _cluster(nodes) as address:
            on_ray = ["--engine", "ray", "--ray-address", address]
            name = f"Ray, {nodes} node{'s' if nodes > 1 else ''} of 1 CPU"
            _measured(name, wandb, log, on_ray, url, runs, f"ray-{nodes}")
            done = subprocess.run(
                [sys.executable, "-c", NO_OP, address], capture_output=True, text=True, check=True
            )
            row(f"  a task that does nothing, {nodes} node", f"{float(done.stdout):.1f} ms")


def _measured(
    name: str, wandb: WandbServer, log: Path, how: Sequence[str], url: str, runs: int, into: str
) -> None:
    wandb.requests.clear()
    asked = _requests(log)
    seconds = _backfill(wandb, "small", url, [*how, "--experiment", into])
    row(
        name, f"{seconds:.1f}", f"{runs / seconds:.2f}", f"{len(wandb.requests) / runs:.1f}",
        f"{(_requests(log) - asked) / runs:.1f}",
    )  # fmt: skip


def _long(
    wandb: WandbServer, folder: Path, uri: str, name: str, steps: int, path: str = "api"
) -> None:
    wandb.requests.clear()
    how = ["--write-path", path, "--experiment", f"long by {path}"]
    seconds = _backfill(wandb, "long", uri, how)
    points = steps * KEYS
    row(name, f"{seconds:.1f} s", f"{points / seconds:,.0f}/s", f"{len(wandb.requests)} W&B")


def _backfill(wandb: WandbServer, project: str, to: str, how: Sequence[str]) -> float:
    command = Path(sys.executable).parent / "mlflow-wandb"
    source = f"wandb+{wandb.url}/tester/{project}"
    began = time.perf_counter()
    done = subprocess.run(
        [command, "backfill", source, "--to", to, *how], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - began


def _requests(log: Path) -> int:
    """What the tracking server has been asked so far, by its own log."""
    return len(re.findall(r'"(?:GET|POST|PATCH|PUT) /', log.read_text(errors="replace")))


def _bytes(database: str) -> int:
    import sqlalchemy

    engine = sqlalchemy.create_engine(database)
    with engine.connect() as connection:
        size: Any = connection.execute(
            sqlalchemy.text("select pg_total_relation_size('metrics')")
        ).scalar()
    engine.dispose()
    return int(size)


@contextlib.contextmanager
def _cluster(nodes: int) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(nodes)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("address "):
                yield line.split()[1]
                return
        raise AssertionError("the cluster did not start")
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


if __name__ == "__main__":
    main()
