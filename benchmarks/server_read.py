"""Reading one long run from a W&B server: points a second, and the reader's peak memory.

The server is the tests' own, in this process; the reader is a child, so that its memory is its
own. Linux only. Run from the project's folder: ``python -m benchmarks.server_read [STEPS [KEYS]]``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.common import private_place, row
from tests.wandb_server import WandbServer

READER = """
import json, os, re, time
from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.core.model import Selection, Series
import pyarrow.parquet, numpy, requests, wandb

def peak():
    # Not getrusage: its figure begins with the memory of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

source = plugins.open_source(os.environ["SOURCE"])
before, began, points, blocks = peak(), time.perf_counter(), 0, 0
for info in source.runs(Selection()):
    for item in source.read(info, {}):
        if isinstance(item, Series):
            points += len(item.values)
seconds = time.perf_counter() - began
print(json.dumps([points, seconds, before, peak(), source.calls]))
"""


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    keys = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with private_place() as folder, WandbServer(folder / "server") as server:
        exported = server.add_run("exported", "long")
        server.add_long_history(exported, steps, keys)
        live = server.add_run("live", "long")
        rows = min(steps, 100_000)
        server.grow(live, ({f"key{k}": 1 / (i + 1) for k in range(keys)} for i in range(rows)))
        row(f"{keys} keys", "points", "points/s", "MB imported", "MB peak", "requests")
        for project, count in (("exported", steps), ("live", rows)):
            _measure(server, project, f"{count:,} rows, {project}")


def _measure(server: WandbServer, project: str, name: str) -> None:
    env = {
        **os.environ,
        "SOURCE": f"wandb+{server.url}/tester/{project}",
        "WANDB_API_KEY": server.api_key,
    }
    done = subprocess.run(
        [sys.executable, "-c", READER], env=env, check=True, capture_output=True, text=True
    )
    points, seconds, before, peak, calls = json.loads(done.stdout)
    figures = (f"{points:,}", f"{points / seconds:,.0f}", f"{before}", f"{peak}")
    row(name, *figures, f"{sum(calls.values())}")


if __name__ == "__main__":
    main()
