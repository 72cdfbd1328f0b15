"""What the benchmarks share: a private place to write, rounds of peers, and figures as rows."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def private_place() -> Iterator[Path]:
    """A temporary folder that wandb and MLflow write to, and nowhere else."""
    with tempfile.TemporaryDirectory(prefix="mlflow-wandb-bench-") as name:
        folder = Path(name)
        for variable in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            (folder / variable).mkdir()
            os.environ[variable] = str(folder / variable)
        os.environ.update(
            WANDB_MODE="offline",
            WANDB_SILENT="true",
            WANDB_ERROR_REPORTING="false",
            MLFLOW_DISABLE_TELEMETRY="true",
            DO_NOT_TRACK="true",
            MLFLOW_TRACKING_URI=f"sqlite:///{folder / 'mlflow.db'}",
        )
        before = os.getcwd()
        # MLflow puts the artifacts of a database below the current folder.
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def arguments(description: str | None, **defaults: int) -> argparse.Namespace:
    """The command line of a benchmark: an option a number."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def in_turns(peers: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each peer took, round by round: a load on the machine meets all of them.

    The order turns by one each round, so that nobody always runs behind the same neighbour.
    """
    taken: dict[str, list[float]] = {name: [] for name in peers}
    names = list(peers)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            taken[name].append(peers[name]())
    return taken


def stopwatch(what: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    what()
    return time.perf_counter() - begin


def descendants_seconds() -> float:
    """Processor time that this process's descendants have used so far (Linux)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    found, waiting = 0, [os.getpid()]
    while waiting:
        parent = waiting.pop()
        children = [pid for pid, its in parents.items() if its == parent]
        found += sum(ticks[child] for child in children)
        waiting += children
    return found / os.sysconf("SC_CLK_TCK")


def show(title: str, points: int, taken: Mapping[str, Sequence[float]], ours: str) -> None:
    """A table: points a second of each peer (median), and how many times as fast ``ours`` was:
    the median over the rounds of the ratio within one round, and its range."""
    row(f"{title}, {load()}", "points/s", "ours/it", "range")
    for name, seconds in taken.items():
        ratios = [other / own for own, other in zip(taken[ours], seconds, strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        row(f"  {name}", f"{points / median(seconds):,.0f}", f"{median(ratios):.2f}", spread)


def load() -> str:
    """How busy the machine is: the load average of the last minute, and the cores."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of ``values`` lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def row(name: str, *figures: str) -> None:
    """Print one line of a table."""
    print(f"{name:<60}" + "".join(f"{figure:>14}" for figure in figures), flush=True)
