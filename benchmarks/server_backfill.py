"""One long run from a W&B server into MLflow (SQLite): points a second, and peak memory.

The server is the tests' own, in this process; the backfill is a child, so that its memory is its
own. Linux only. Run from the project's folder:
``python -m benchmarks.server_backfill [STEPS [KEYS]]``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.common import private_place, row
from tests.wandb_server import WandbServer

BACKFILL = """
import json, os, re, time
import mlflow_wandb_plugin

began = time.perf_counter()
(outcome,) = mlflow_wandb_plugin.backfill(os.environ["SOURCE"], os.environ["TARGET"])
seconds = time.perf_counter() - began
assert outcome.action == "migrated", outcome.reason
# Not getrusage: its figure begins with the memory of the process that started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
print(json.dumps([outcome.points, seconds, peak]))
"""


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    keys = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with private_place() as folder, WandbServer(folder / "server") as server:
        server.add_long_history(server.add_run("long", "r1"), steps, keys)
        env = {
            **os.environ,
            "SOURCE": f"wandb+{server.url}/tester/long",
            "TARGET": f"sqlite:///{folder / 'mlflow.db'}",
            "WANDB_API_KEY": server.api_key,
        }
        done = subprocess.run(
            [sys.executable, "-c", BACKFILL],
            env=env, cwd=folder, check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        points, seconds, peak = json.loads(done.stdout)
    row("steps x keys", "points", "points/s", "MB peak")
    row(f"{steps:,} x {keys}", f"{points:,}", f"{points / seconds:,.0f}", f"{peak}")


if __name__ == "__main__":
    main()
