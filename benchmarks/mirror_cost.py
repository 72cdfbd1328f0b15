"""What mirroring MLflow into W&B costs the script: per `mlflow.log_metrics`, and per import.

    python -m benchmarks.mirror_cost [--calls 1000] [--imports 10]

Calls: the plain and the mirrored method in one process, in alternating blocks; medians in
microseconds. "The mirror alone" replaces the store's own method by one that does nothing: on SQLite
two calls in a row differ by more than what is measured, as the other rows show.

Imports: `import mlflow` in processes of their own, with the package's entry points and without
them, in turns; medians of CPU time in milliseconds, and the time inside the entry points. The
replicator is kept from starting: it is another process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import median, percentile, private_place, row

KEYS = (1, 10, 100)
BLOCK = 25

IMPORT = """
import sys, time
import importlib.metadata as metadata
found, load, inside = metadata.entry_points, metadata.EntryPoint.load, [0.0]
def entry_points(**wanted):
    points = [point for point in found(**wanted) if "mlflow_wandb_plugin" not in point.value]
    return metadata.EntryPoints(points)
def timed(point):
    begin = time.perf_counter()
    try:
        return load(point)
    finally:
        if "mlflow_wandb_plugin" in point.value:
            inside[0] += time.perf_counter() - begin
metadata.EntryPoint.load = timed
if sys.argv[1] == "without":
    metadata.entry_points = entry_points
begin = time.process_time()
import mlflow
print(time.process_time() - begin, inside[0])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--imports", type=int, default=10)
    arguments = parser.parse_args()
    with private_place() as folder:
        time_calls(folder, arguments.calls)
        time_imports(folder, arguments.imports)


def time_calls(folder: Path, calls: int) -> None:
    import mlflow
    from mlflow.tracking._tracking_service import utils

    from mlflow_wandb_plugin.store import replicator_start

    replicator_start.ensure_running = lambda folder: None
    os.chdir(folder)
    mlflow.set_tracking_uri(f"wandb+sqlite:///{folder / 'mirrored.db'}")
    mirrored = utils._get_store()
    run = mlflow.start_run()
    run_id = run.info.run_id
    row("us a call (median)", "plain", "mirrored", "added", "added p99")
    for whole in (False, True):
        for keys in KEYS:
            times = compare(mirrored, run_id, keys, calls // 10 if whole else calls, whole)
            show(f"{keys} keys, {'on SQLite' if whole else 'the mirror alone'}", *times)
    mlflow.end_run()


def compare(
    store: Any, run_id: str, keys: int, calls: int, whole: bool
) -> tuple[list[float], list[float]]:
    """Times of the plain and of the mirrored `log_batch`, in alternating blocks.

    Args:
        whole: with the database's work; else around a method that does nothing.
    """
    from mlflow.entities import Metric

    steps = iter(range(10_000_000))
    inner = type(store).__base__
    original = inner.log_batch
    if not whole:
        original = lambda *args, **kwargs: None  # noqa: E731
        mirrored = around(original)
    else:
        mirrored = type(store).log_batch

    def log(method: Callable[..., Any]) -> None:
        step = next(steps)
        metrics = [Metric(f"metric_{n}", n * 1.5, 1_700_000_000_000, step) for n in range(keys)]
        begin = time.perf_counter()
        method(store, run_id, metrics, [], [])
        taken[-1].append((time.perf_counter() - begin) * 1e6)

    results: tuple[list[float], list[float]] = ([], [])
    for _ in range(max(1, calls // BLOCK)):
        for method, found in zip((original, mirrored), results, strict=True):
            taken = [found]
            for _ in range(BLOCK):
                log(method)
    return results


def around(method: Callable[..., Any]) -> Callable[..., Any]:
    """``method``, mirrored as a store's `log_batch` is."""
    from mlflow_wandb_plugin.store.run_operations import OPERATIONS
    from mlflow_wandb_plugin.store.swap import swapped

    kind = type("Nothing", (), {"log_batch": method})
    mirrored: Callable[..., Any] = type(
        swapped(kind(), {"log_batch": OPERATIONS["log_batch"]})
    ).log_batch
    return mirrored


def show(name: str, plain: list[float], mirrored: list[float]) -> None:
    row(
        name,
        f"{median(plain):.1f}",
        f"{median(mirrored):.1f}",
        f"{median(mirrored) - median(plain):+.1f}",
        f"{percentile(mirrored, 99) - percentile(plain, 99):+.1f}",
    )


def time_imports(folder: Path, times: int) -> None:
    taken: dict[str, list[list[float]]] = {"without": [], "with": []}
    for _ in range(times):
        for how, found in taken.items():
            command = [sys.executable, "-c", IMPORT, how]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
            found.append([float(figure) * 1e3 for figure in done.stdout.split()])
    row("import mlflow, ms (median)", "without", "with", "added", "entry points")
    without = median([cpu for cpu, _ in taken["without"]])
    with_it = median([cpu for cpu, _ in taken["with"]])
    inside = median([inside for _, inside in taken["with"]])
    row("", f"{without:.0f}", f"{with_it:.0f}", f"{with_it - without:+.1f}", f"{inside:.1f}")


if __name__ == "__main__":
    main()
