"""``python -m mlflow_wandb_plugin.replicator FOLDER``: ship journals to MLflow beside training.

A training process starts it, and writes requests to its standard input, one JSON object a line:
the journal to follow and the MLflow to ship it to. At the end of the input, or when the process has
a new parent, the training process is gone. Then the replicator ships what it can and ends; what
MLflow does not accept stays in the journals.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.core.helper_process import lower_priority
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status_file import write_status
from mlflow_wandb_plugin.replicator.mlflow_shipment import POLL_S, MlflowShipment


class ReplicatorProcess:
    """Follows journals, one thread each, until the training process is gone and all are done."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parent = os.getppid()
        self._orphaned_at: float | None = None
        self._linger_s = 30.0
        self._journal_dir = ""
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        threading.Thread(target=self._read_requests, daemon=True).start()
        while self._orphaned_at is None or any(thread.is_alive() for thread in self._threads):
            if self._orphaned_at is None and os.getppid() != self._parent:
                self._orphaned_at = time.monotonic()
            time.sleep(POLL_S)

    def keep_trying(self) -> bool:
        """Whether to wait longer for an MLflow that does not answer."""
        return self._orphaned_at is None or time.monotonic() - self._orphaned_at < self._linger_s

    def _read_requests(self) -> None:
        for number, line in enumerate(sys.stdin.buffer):
            request = json.loads(line)
            settings, uri = request["settings"], request["tracking_uri"]
            self._linger_s = float(settings["linger"])
            journal = Path(request["journal"])
            self._journal_dir = settings["journal_dir"]
            self._ship(journal, uri, settings["experiment"], own=True)
            if number == 0:
                self._adopt_orphans(journal, uri)
        self._orphaned_at = self._orphaned_at or time.monotonic()

    def _ship(self, path: Path, uri: str, experiment: str, own: bool = False) -> None:
        shipment = MlflowShipment(
            path, uri, experiment, True, self.keep_trying, own, self._journal_dir
        )
        thread = threading.Thread(target=_ship, args=(shipment,), name=path.stem)
        thread.start()
        self._threads.append(thread)

    def _adopt_orphans(self, own: Path, uri: str) -> None:
        """Ship what earlier training processes in this folder left behind for the same MLflow."""
        for path in sorted(self._folder.glob(f"*{frames.SUFFIX}")):
            if path == own or trainer_alive(path):
                continue
            with contextlib.suppress(MlflowWandbError):
                header = read_header(path)
                same_target = header.get("tracking_uri", "") == tracking_uri.shown(uri)
                # Journals of mirrored MLflow runs are for W&B.
                if same_target and header.get("born") != outbox.BORN:
                    self._ship(path, uri, header.get("experiment", "{project}"))


def _ship(shipment: MlflowShipment) -> None:
    try:
        state = shipment.ship()
        print(f"{shipment.path.stem}: {state}", flush=True)
    except Exception as error:
        # The journal is still there; sync or the next start goes on from it.
        traceback.print_exc()
        write_status(shipment.path, {"state": "failed", "error": repr(error)})


def main() -> None:
    lower_priority()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    ReplicatorProcess(Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
