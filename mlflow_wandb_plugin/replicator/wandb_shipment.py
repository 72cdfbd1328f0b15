"""Deliver one journal of a mirrored MLflow run to W&B: while it is written, or later."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.errors import (
    MlflowWandbError,
    SourceUnavailableError,
    TargetUnavailableError,
    UsageError,
)
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.journal_locks import shipping_lock, trainer_alive
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status_file import read_status, write_status
from mlflow_wandb_plugin.replicator.journal_upload import JournalUpload
from mlflow_wandb_plugin.targets.wandb.lookup import wanted_mode
from mlflow_wandb_plugin.targets.wandb.sdk_errors import CoreGoneError

POLL_S = 0.2


class WandbShipment:
    """Delivers one journal.

    Args:
        path: the journal.
        follow: whether to wait for more while processes have the journal open for writing.
        keep_going: asked while there is nothing to do; False ends the waiting.

    Attributes:
        core_gone: wandb-core died, so that only another process can go on.
    """

    def __init__(
        self, path: Path, follow: bool, keep_going: Callable[[], bool] = lambda: True
    ) -> None:
        self.path = path
        self.core_gone = False
        self._follow = follow
        self._keep_going = keep_going
        self._status: dict[str, Any] = {}

    def ship(self) -> str:
        """Deliver what the journal has, and what is appended meanwhile.

        Returns:
            The state reached: complete, live (a process still writes the journal), waiting (there
            is no key, W&B does not accept it or does not answer), failed, or busy (another process
            delivers the journal).
        """
        with shipping_lock(self.path) as locked:
            if not locked:
                return "busy"
            if not self.path.exists():
                return str(read_status(self.path).get("state", "complete"))
            self._status = read_status(self.path)
            self._status |= {"born": outbox.BORN, "pid": os.getpid(), "error": ""}
            try:
                if not self._follow and trainer_alive(self.path):
                    return "live"
                return self._upload()
            except (UsageError, SourceUnavailableError, TargetUnavailableError) as error:
                self.core_gone = isinstance(error, CoreGoneError)
                return self.write_status("waiting", error=str(error))
            except MlflowWandbError as error:
                return self.write_status("failed", error=str(error))

    def write_status(self, state: str, **more: Any) -> str:
        """Replace the journal's status file; returns ``state``."""
        self._status.update(more, state=state, updated=time.time())
        with contextlib.suppress(OSError):
            write_status(self.path, self._status)
            if state in (*outbox.STUCK, "complete"):
                outbox.write_trouble(self.path.parent, str(self._status["error"]))
        return state

    def _upload(self) -> str:
        upload = JournalUpload(self.path, wanted_mode(), self.write_status, self._status)
        try:
            quiet_since = time.monotonic()
            while True:
                alive = trainer_alive(self.path)
                if upload.upload_new():
                    quiet_since = time.monotonic()
                    upload.send_pending()
                    time.sleep(POLL_S)
                    continue
                quiet_s = time.monotonic() - quiet_since
                ending = upload.due_ending(alive, quiet_s, self._follow)
                if ending is not None:
                    upload.end(ending)
                    if upload.remove_if_delivered():
                        return "complete"
                if not self._keep_going():
                    return self.write_status("live")
                time.sleep(POLL_S)
        finally:
            upload.close_open_run()


def is_mirrored(path: Path) -> bool:
    """Whether ``path`` is the journal of a mirrored MLflow run, and not of a W&B run."""
    try:
        return read_header(path).get("born") == outbox.BORN
    except MlflowWandbError:
        return False
