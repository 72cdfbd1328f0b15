"""Log rows to W&B, replicated to MLflow: ``python -m faults.programs.live LEDGER RUN ROWS RESUME``.

A run that is resumed goes on behind the last row that was begun before.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from faults.ledger import (
    FINISHED,
    FINISHING,
    LedgerWriter,
    read_ledger,
    values,
)

PAUSE_S = 0.01


def main(path: Path, run_id: str, rows: int, resume: bool) -> None:
    import mlflow_wandb_plugin.wandb as wandb

    first = read_ledger(path).next_row
    ledger = LedgerWriter(path)
    settings = wandb.Settings(console="off", x_disable_stats=True)
    run = wandb.init(
        project="faults",
        id=run_id,
        resume="allow" if resume else None,
        config={"param": "of the run"},
        settings=settings,
    )
    for row in range(first, rows):
        with ledger.row(row):
            run.log(values(row), step=row)
        time.sleep(PAUSE_S)
    ledger.write(FINISHING)
    run.finish()
    ledger.write(FINISHED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "resume")
