"""Keep a forwarder running, and warn the user of what keeps runs from W&B."""

from __future__ import annotations

import time
from pathlib import Path

from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.status import read_status
from mlflow_wandb_plugin.store import api_key, forwarder_process
from mlflow_wandb_plugin.store.log_messages import warn_once

CHECK_EVERY_S = 5.0
NO_KEY = "no API key"


class DeliveryWatch:
    """Watches the delivery of the journals in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next_check = 0.0
        self._shown: set[str] = set()

    def check_if_due(self, journal: Path) -> None:
        """`check`, unless it ran in the last `CHECK_EVERY_S`."""
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + CHECK_EVERY_S
            self.check(journal)

    def check(self, journal: Path) -> None:
        """Start a forwarder unless one runs; warn once of each kind of trouble."""
        forwarder_process.ensure_running(self._folder)
        trouble = self._trouble(journal)
        kind = NO_KEY if NO_KEY in trouble else trouble
        if trouble and kind not in self._shown:
            self._shown.add(kind)
            warn_once(
                f"{trouble}. Logging to MLflow goes on; "
                f"`mlflow-wandb sync {self._folder}` delivers to W&B later"
            )

    def _trouble(self, journal: Path) -> str:
        """What keeps this run from W&B, or will keep it, or has kept an earlier run."""
        status = read_status(journal)
        if status.get("state") in outbox.STUCK:
            return str(status.get("error") or "")
        if api_key.is_missing():
            return f"{NO_KEY} for W&B: set WANDB_API_KEY, or run `wandb login`"
        earlier = outbox.read_trouble(self._folder)
        return earlier and f"earlier runs wait for W&B: {earlier}"
