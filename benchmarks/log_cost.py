"""What one call of `wandb.log` costs the training loop: wandb alone, dual, MLflow by hand.

    python -m benchmarks.log_cost [--calls 1000]

All in one process, in alternating blocks, so that the ratios hold on a noisy machine. "tight" is
a loop that does nothing else; "cold" sleeps 2 ms between calls, so that caches go cold as they do
in training. Medians in microseconds a call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

from benchmarks.common import median, percentile, private_place, row

KEYS = (1, 10, 100)
BLOCK = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    calls = parser.parse_args().calls
    with private_place():
        measure(calls)


def measure(calls: int) -> None:
    import mlflow
    import wandb

    from mlflow_wandb_plugin import autolog

    autolog(homes="wandb")
    alone = wandb.init(project="alone", reinit="create_new")
    autolog(homes="both")
    dual = wandb.init(project="dual", reinit="create_new")
    experiment = mlflow.set_experiment("by hand")
    row("us a call (median)", "wandb", "dual", "added", "added p99", "mlflow sync", "mlflow async")
    for keys in KEYS:
        data = {f"metric_{number}": number * 1.5 for number in range(keys)}
        for gap_s, name in ((0.0, "tight"), (0.002, "cold")):
            n = calls if not gap_s else calls // 2
            a, b = paired(partial(alone.log, data), partial(dual.log, data), n, gap_s)
            by_hand = {
                synchronous: timed_mlflow(mlflow, experiment, data, n // 10, gap_s, synchronous)
                for synchronous in (True, False)
            }
            row(
                f"{keys} keys, {name}",
                f"{median(a):.1f}",
                f"{median(b):.1f}",
                f"{median(b) - median(a):+.1f}",
                f"{percentile(b, 99) - percentile(a, 99):+.1f}",
                f"{median(by_hand[True]):.0f}",
                f"{median(by_hand[False]):.0f}",
            )
    alone.finish()
    dual.finish()


def paired(
    first: Callable[[], object], second: Callable[[], object], calls: int, gap_s: float
) -> tuple[list[float], list[float]]:
    """Microseconds of each call of two functions, in alternating blocks."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(max(1, calls // BLOCK)):
        for function, taken in zip((first, second), times, strict=True):
            taken.extend(timed(function, BLOCK, gap_s))
    return times


def timed(function: Callable[[], object], calls: int, gap_s: float) -> list[float]:
    taken = []
    for _ in range(calls):
        if gap_s:
            time.sleep(gap_s)
        begin = time.perf_counter()
        function()
        taken.append((time.perf_counter() - begin) * 1e6)
    return taken


def timed_mlflow(
    mlflow: object,
    experiment: object,
    data: dict[str, float],
    calls: int,
    gap_s: float,
    synchronous: bool,
) -> list[float]:
    steps = iter(range(1_000_000))
    with mlflow.start_run(experiment_id=experiment.experiment_id):  # type: ignore[attr-defined]

        def log() -> None:
            mlflow.log_metrics(data, step=next(steps), synchronous=synchronous)  # type: ignore[attr-defined]

        return timed(log, calls, gap_s)


if __name__ == "__main__":
    main()
