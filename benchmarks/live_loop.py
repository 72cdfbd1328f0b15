"""What dual-writing costs a training loop: steps of 3 ms of work, 10 keys logged at each.

    python -m benchmarks.live_loop [--steps 2000] [--rounds 5] [--keys 10]

wandb alone and dual in one process, in alternating blocks. Each round prints the ratio of the mean
and of the 99th percentile of a step's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from benchmarks.common import arguments, load, median, percentile, private_place, row

BLOCK = 25
STEP_S = 0.003


def main() -> None:
    options = arguments(__doc__, steps=2000, rounds=5, keys=10)
    with private_place():
        measure(options.steps, options.rounds, options.keys)


def measure(steps: int, rounds: int, keys: int) -> None:
    import wandb

    from mlflow_wandb_plugin import autolog

    autolog(homes="wandb")
    alone = wandb.init(project="alone", reinit="create_new")
    autolog(homes="both")
    dual = wandb.init(project="dual", reinit="create_new")
    data = {f"metric_{number}": number * 1.5 for number in range(keys)}
    work = calibrated()
    row(f"{keys} keys, ms a step, {load()}", "wandb", "dual", "mean ratio", "p99 ratio")
    means, tails = [], []
    for number in range(rounds):
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(max(1, steps // BLOCK)):
            for run, taken in zip((alone, dual), times, strict=True):
                taken.extend(steps_of(work, partial(run.log, data)))
        first, second = (sum(taken) / len(taken) for taken in times)
        means.append(second / first)
        tails.append(percentile(times[1], 99) / percentile(times[0], 99))
        row(
            f"  round {number + 1}",
            f"{first * 1e3:.3f}",
            f"{second * 1e3:.3f}",
            f"{means[-1]:.3f}",
            f"{tails[-1]:.3f}",
        )
    row(f"  median, {load()}", "", "", f"{median(means):.3f}", f"{median(tails):.3f}")
    alone.finish()
    dual.finish()


def steps_of(work: Callable[[], object], log: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(BLOCK):
        begin = time.perf_counter()
        work()
        log()
        taken.append(time.perf_counter() - begin)
    return taken


def calibrated() -> Callable[[], object]:
    """Work that takes `STEP_S` of processor time."""
    count = 10_000
    begin = time.process_time()
    for _ in range(100):
        sum(range(count))
    each = (time.process_time() - begin) / 100
    return partial(sum, range(int(count * STEP_S / each)))


if __name__ == "__main__":
    main()
