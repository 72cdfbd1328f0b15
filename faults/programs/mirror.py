"""Log rows to MLflow, mirrored: ``python -m faults.programs.mirror LEDGER RUN ROWS RESUME``.

RUN names the experiment; the tracking URI is the environment's. A script that is started again goes
on with the run of its ledger, behind the last row that was begun before.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from faults.ledger import (
    FINISHED,
    FINISHING,
    RUN,
    LedgerWriter,
    read_ledger,
    values,
)

PAUSE_S = 0.01


def main(path: Path, experiment: str, rows: int) -> None:
    import mlflow

    before = read_ledger(path)
    ledger = LedgerWriter(path)
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_id=before.run_id or None) as run:
        ledger.write(RUN, run.info.run_id)
        if not before.run_id:
            mlflow.log_param("param", "of the run")
        for row in range(before.next_row, rows):
            with ledger.row(row):
                mlflow.log_metrics(values(row), step=row)
            time.sleep(PAUSE_S)
        ledger.write(FINISHING)
    ledger.write(FINISHED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
