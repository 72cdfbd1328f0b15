"""What `mlflow-wandb verify` costs: one long run, and many small ones against their backfill.

python -m benchmarks.verify [--points 1000000] [--keys 20] [--runs 500] [--steps 20]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import arguments, load, private_place, row
from benchmarks.read_speed import write_log


@dataclass
class Cost:
    """Seconds that a command took, seconds of processor time, and its peak memory in MB."""

    wall_s: float
    cpu_s: float
    memory_mb: float


def main() -> None:
    args = arguments(__doc__, points=1_000_000, keys=20, runs=500, steps=20)
    with private_place() as folder:
        (folder / "long" / "wandb").mkdir(parents=True)
        write_run(folder / "long" / "wandb", 0, args.points // args.keys, args.keys)
        measured(folder, "backfill", "long")
        long = measured(folder, "verify", "long")
        (folder / "small" / "wandb").mkdir(parents=True)
        for number in range(args.runs):
            write_run(folder / "small" / "wandb", number, args.steps, args.keys)
        filled = measured(folder, "backfill", "small")
        small = measured(folder, "verify", "small")
    row(load(), "wall s", "CPU s", "peak MB")
    row(f"verify, 1 run, {args.points:,} points", *shown(long))
    row(f"backfill, {args.runs} runs of {args.steps * args.keys} points", *shown(filled))
    row(f"verify, {args.runs} runs of {args.steps * args.keys} points", *shown(small))
    row("CPU of verify / CPU of backfill", "", f"{small.cpu_s / filled.cpu_s:.2f}", "")


def shown(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.wall_s:.1f}", f"{cost.cpu_s:.1f}", f"{cost.memory_mb:.0f}"


def write_run(folder: Path, number: int, steps: int, keys: int) -> None:
    """A run folder as wandb leaves it offline."""
    run = folder / f"offline-run-20240101_{number:06d}-bench{number}"
    run.mkdir()
    write_log(run / f"run-bench{number}.wandb", steps, keys, number)


def measured(folder: Path, command: str, name: str) -> Cost:
    """Run a command of ours in a process of its own."""
    script = "from mlflow_wandb_plugin.cli import main; main()"
    source, to = str(folder / name / "wandb"), f"sqlite:///{folder / name}.db"
    line = [sys.executable, "-c", script, command, source, "--to", to]
    began = time.perf_counter()
    process = subprocess.Popen(line, cwd=folder / name, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{command} {name} failed")
    return Cost(time.perf_counter() - began, processor_s(usage), usage.ru_maxrss / 1024)


def processor_s(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
