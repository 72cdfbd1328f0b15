"""Carry one journal of a run born in MLflow into W&B: live beside its writers, or later."""

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
from mlflow_wandb_plugin.journal.locks import shipping_lock, trainer_alive
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status import read_status, write_status
from mlflow_wandb_plugin.replicator.journal_upload import JournalUpload
from mlflow_wandb_plugin.targets.wandb.lookup import Access, wanted_mode
from mlflow_wandb_plugin.targets.wandb.run_writer import CoreGoneError

POLL_S = 0.2


class WandbShipment:
    """Carries one journal. Whoever calls `ship` must be the only one: it takes the lock.

    Args:
        path: the journal.
        follow: stay with writers that are alive until they are done.
        keep_going: asked while there is nothing to do; False ends the following.
    """

    def __init__(
        self,
        path: Path,
        follow: bool,
        keep_going: Callable[[], bool] = lambda: True,
        access: Callable[[], Access] = Access,
    ) -> None:
        self.path = path
        self._follow = follow
        self._keep_going = keep_going
        self._access = access
        self._status: dict[str, Any] = {}
        self.core_gone = False
        """wandb-core died: only another process can go on."""

    def ship(self) -> str:
        """Carry what there is, and what comes. Returns the state reached: complete, live (its
        writers live), waiting (no key, not accepted, or W&B does not answer), failed, or busy
        (another process carries it)."""
        with shipping_lock(self.path) as mine:
            if not mine:
                return "busy"
            if not self.path.exists():
                return str(read_status(self.path).get("state", "complete"))
            self._status = read_status(self.path)
            self._status |= {"born": outbox.BORN, "pid": os.getpid(), "error": ""}
            try:
                if not self._follow and trainer_alive(self.path):
                    return "live"
                return self._ship()
            except (UsageError, SourceUnavailableError, TargetUnavailableError) as error:
                self.core_gone = isinstance(error, CoreGoneError)
                return self.say("waiting", error=str(error))
            except MlflowWandbError as error:
                return self.say("failed", error=str(error))

    def say(self, state: str, **more: Any) -> str:
        """Replace the status file."""
        self._status.update(more, state=state, updated=time.time())
        with contextlib.suppress(OSError):
            write_status(self.path, self._status)
            if state in (*outbox.STUCK, "complete"):
                outbox.say_trouble(self.path.parent, str(self._status["error"]))
        return state

    def _ship(self) -> str:
        passage = JournalUpload(self.path, wanted_mode(), self._access, self.say, self._status)
        try:
            quiet_since = time.monotonic()
            while True:
                alive = trainer_alive(self.path)
                if passage.drain():
                    quiet_since = time.monotonic()
                    passage.settle()
                    time.sleep(POLL_S)
                    continue
                quiet_s = time.monotonic() - quiet_since
                ending = passage.ending(alive, quiet_s, self._follow)
                if ending is not None:
                    passage.end(ending)
                    if passage.take_away():
                        return "complete"
                if not self._keep_going():
                    return self.say("live")
                time.sleep(POLL_S)
        finally:
            passage.let_go()


def is_mirrored(path: Path) -> bool:
    """Whether ``path`` is the journal of a run that was born in MLflow."""
    try:
        return read_header(path).get("born") == outbox.BORN
    except MlflowWandbError:
        return False
