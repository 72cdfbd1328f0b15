"""Deliver journals of W&B runs to MLflow, as training processes request it."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status_file import write_status
from mlflow_wandb_plugin.replicator.mlflow_shipment import MlflowShipment, import_target

DEFAULT_LINGER_S = 30.0


class MlflowDeliveries:
    """Follows journals of one folder, one thread each.

    Journals that processes left are shipped, too: when the first request for their MLflow comes,
    and when the last process is gone, for one may have ended before it could send a request.

    Args:
        folder: where the journals are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._linger_s = DEFAULT_LINGER_S
        self._alone_since: float | None = None
        self._threads: dict[Path, threading.Thread] = {}
        self._connected = False
        self._adopted_for: set[str] = set()
        self._chosen_folders: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        """Whether a journal is being shipped."""
        return any(thread.is_alive() for thread in self._threads.values())

    def note_trainers(self, connected: bool) -> None:
        """Note whether there is a training process that may write journals."""
        if self._connected and not connected:
            for uri, journal_dir in self._chosen_folders.items():
                self._adopt_orphans(uri, journal_dir)
        self._connected = connected
        self._alone_since = None if connected else self._alone_since or time.monotonic()

    def take(self, request: Mapping[str, Any]) -> None:
        """Ship the journal that a training process names, or only get ready to do so; see
        `live.replicator_process`."""
        name, uri = str(request["journal"]), str(request["tracking_uri"])
        if not name:
            self._chosen_folders.setdefault(uri, "")
            threading.Thread(target=import_target, args=(uri,), daemon=True).start()
            return
        path = self._folder / name
        if path.name != name or path.suffix != frames.SUFFIX:
            return
        self._linger_s = float(request["linger_s"])
        journal_dir = str(self._folder) if request["chosen_folder"] else ""
        self._chosen_folders[uri] = journal_dir
        self._ship(path, uri, str(request["experiment"]), journal_dir, own=True)
        if uri not in self._adopted_for:
            self._adopted_for.add(uri)
            self._adopt_orphans(uri, journal_dir)

    def _keep_trying(self) -> bool:
        """Whether to wait longer for an MLflow that does not answer."""
        alone_since = self._alone_since
        return alone_since is None or time.monotonic() - alone_since < self._linger_s

    def _ship(
        self, path: Path, uri: str, experiment: str, journal_dir: str, own: bool = False
    ) -> None:
        before = self._threads.get(path)
        if before is not None and before.is_alive():
            return
        shipment = MlflowShipment(path, uri, experiment, True, self._keep_trying, own, journal_dir)
        thread = threading.Thread(target=_ship, args=(shipment,), name=path.stem, daemon=True)
        self._threads[path] = thread
        thread.start()

    def _adopt_orphans(self, uri: str, journal_dir: str) -> None:
        """Ship what earlier training processes in this folder left behind for the same MLflow."""
        for path in sorted(self._folder.glob(f"*{frames.SUFFIX}")):
            if path in self._threads or trainer_alive(path):
                continue
            with contextlib.suppress(MlflowWandbError):
                header = read_header(path)
                same_target = header.get("tracking_uri", "") == tracking_uri.shown(uri)
                # Journals of mirrored MLflow runs are for W&B.
                if same_target and header.get("born") != outbox.BORN:
                    self._ship(path, uri, header.get("experiment", "{project}"), journal_dir)


def _ship(shipment: MlflowShipment) -> None:
    try:
        state = shipment.ship()
        print(f"{shipment.path.stem}: {state}", flush=True)
    except Exception as error:
        # The journal is still there; sync or the next start goes on from it.
        traceback.print_exc()
        write_status(shipment.path, {"state": "failed", "error": repr(error)})
