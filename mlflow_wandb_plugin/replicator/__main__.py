"""``python -m mlflow_wandb_plugin.replicator FOLDER``: started by a training process.

Orders come on standard input, one JSON object a line: which journal to follow, to which MLflow.
The end of the input, or a new parent, means that the trainer is gone. Then the process finishes
what it can and ends; what MLflow does not take stays in the journals.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.core.helper_process import step_aside
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.locks import trainer_alive
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status import write_status
from mlflow_wandb_plugin.replicator.mlflow_shipment import POLL_S, MlflowShipment


class Helper:
    """Follows journals in threads, one a run, until the trainer is gone and all are done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parent = os.getppid()
        self._orphaned_at: float | None = None
        self._linger_s = 30.0
        self._threads: list[threading.Thread] = []
        self._orders = 0

    def run(self) -> None:
        reader = threading.Thread(target=self._read_orders, daemon=True)
        reader.start()
        while self._orphaned_at is None or any(thread.is_alive() for thread in self._threads):
            if self._orphaned_at is None and os.getppid() != self._parent:
                self._orphaned_at = time.monotonic()
            time.sleep(POLL_S)

    def keep_trying(self) -> bool:
        """Whether to wait longer for an MLflow that does not answer."""
        return self._orphaned_at is None or time.monotonic() - self._orphaned_at < self._linger_s

    def _read_orders(self) -> None:
        for line in sys.stdin.buffer:
            order = json.loads(line)
            self._linger_s = float(order["settings"]["linger"])
            self._start(Path(order["journal"]), order["tracking_uri"], order)
            self._orders += 1
            if self._orders == 1:
                self._adopt_orphans(order)
        self._orphaned_at = self._orphaned_at or time.monotonic()

    def _start(self, path: Path, uri: str, order: dict[str, Any]) -> None:
        experiment = order["settings"]["experiment"]
        shipment = MlflowShipment(path, uri, experiment, follow=True, keep_trying=self.keep_trying)
        thread = threading.Thread(target=_ship, args=(shipment,), name=path.stem)
        thread.start()
        self._threads.append(thread)

    def _adopt_orphans(self, order: dict[str, Any]) -> None:
        """Ship what earlier trainers in this folder left behind for the same MLflow."""
        ours = order["tracking_uri"]
        for path in sorted(self._folder.glob(f"*{frames.SUFFIX}")):
            if str(path) == order["journal"] or trainer_alive(path):
                continue
            try:
                header = read_header(path)
            except MlflowWandbError:
                continue
            if header.get("born") == outbox.BORN:
                # Of a run that was born in MLflow: it goes the other way.
                continue
            if header.get("tracking_uri", "") == tracking_uri.shown(ours):
                self._start(
                    path,
                    ours,
                    order
                    | {
                        "settings": order["settings"]
                        | {"experiment": header.get("experiment", "{project}")}
                    },
                )


def _ship(shipment: MlflowShipment) -> None:
    try:
        state = shipment.ship()
        print(f"{shipment.path.stem}: {state}", flush=True)
    except Exception as error:
        # The journal is still there; sync or the next start goes on from it.
        import traceback

        traceback.print_exc()
        write_status(shipment.path, {"state": "failed", "error": repr(error)})


def main() -> None:
    step_aside()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    Helper(Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
