"""What one call of `wandb.log` costs the training loop: wandb alone, dual, MLflow by hand.

    python -m benchmarks.log_cost [--calls 1000] [--by-hand 1]

All in one process, in alternating blocks, so that the ratios hold on a noisy machine. "tight" is
a loop that does nothing else; "cold" sleeps 2 ms between calls, so that caches go cold as they do
in training. Medians in microseconds a call; "ratio" is the median, over the pairs of blocks, of
dual against wandb alone; "tap" is what our part of a call takes by itself, without wandb's: the
fastest of the blocks, for it waits for nobody.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.common import load, median, percentile, private_place, row
from mlflow_wandb_plugin.live import tap

KEYS = (1, 10, 100)
BLOCK = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--by-hand", type=int, default=1, help="0 leaves MLflow's own calls out")
    options = parser.parse_args()
    with private_place():
        measure(options.calls, bool(options.by_hand))


def measure(calls: int, with_by_hand: bool) -> None:
    import mlflow
    import wandb

    from mlflow_wandb_plugin import autolog

    autolog(homes="wandb")
    alone = wandb.init(project="alone", reinit="create_new")
    autolog(homes="both")
    dual = wandb.init(project="dual", reinit="create_new")
    experiment = mlflow.set_experiment("by hand") if with_by_hand else None
    titles = ("wandb", "dual", "added", "added p99", "ratio", "tap", "mlflow sync", "mlflow async")
    row(f"us a call (median), {load()}", *titles)
    for keys in KEYS:
        data = {f"metric_{number}": number * 1.5 for number in range(keys)}
        for gap_s, name in ((0.0, "tight"), (0.002, "cold")):
            n = calls if not gap_s else calls // 2
            a, b = paired(partial(alone.log, data), partial(dual.log, data), n, gap_s)
            by_hand = [
                f"{median(timed_mlflow(mlflow, experiment, data, n // 10, gap_s, synchronous)):.0f}"
                for synchronous in (True, False)
                if with_by_hand
            ]
            row(
                f"{keys} keys, {name}",
                f"{median(a):.1f}",
                f"{median(b):.1f}",
                f"{median(b) - median(a):+.1f}",
                f"{percentile(b, 99) - percentile(a, 99):+.1f}",
                f"{median(ratios(a, b)):.3f}",
                f"{own_cost(dual, data, gap_s):.1f}",
                *by_hand,
            )
    row(load())
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


def ratios(first: list[float], second: list[float]) -> list[float]:
    """Ratios of the blocks' medians, pair by pair."""
    starts = range(0, len(first), BLOCK)
    blocks = [(first[at : at + BLOCK], second[at : at + BLOCK]) for at in starts]
    return [median(dual) / median(alone) for alone, dual in blocks]


def own_cost(run: Any, data: dict[str, float], gap_s: float) -> float:
    """Microseconds that the tap takes for a row, where wandb's part takes nothing."""
    from wandb.proto.wandb_internal_pb2 import PartialHistoryRequest

    logged = PartialHistoryRequest()
    for key, value in data.items():
        logged.item.add(key=key, value_json=json.dumps(value))
    send = tap.row_sender(lambda record: None, tap.tap_of(run))
    return min(median(timed(partial(send, logged), BLOCK, gap_s)) for _ in range(20))


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
