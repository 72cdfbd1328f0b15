"""Log at a steady rate: ``python -m faults.programs.soak COUNT RUN STEPS_PER_S KEYS SECONDS``.

The file COUNT holds how many rows `log()` has returned from; it is replaced about once a second.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def main(count: Path, run_id: str, rate: float, keys: int, seconds: float) -> None:
    import mlflow_wandb_plugin.wandb as wandb

    settings = wandb.Settings(console="off", x_disable_stats=True)
    run = wandb.init(project="soak", id=run_id, settings=settings)
    begin = time.monotonic()
    told, step = begin, 0
    while (now := time.monotonic()) - begin < seconds:
        run.log({f"key{number}": step + number / keys for number in range(keys)})
        step += 1
        if now - told > 1:
            told = now
            _write(count, step)
        time.sleep(max(0.0, begin + step / rate - time.monotonic()))
    _write(count, step)
    run.finish()


def _write(count: Path, step: int) -> None:
    temporary = count.with_suffix(".new")
    temporary.write_text(str(step))
    os.replace(temporary, count)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
