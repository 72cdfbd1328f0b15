"""Keep a forwarder running, and warn the user of what keeps runs from W&B."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.status_file import read_status
from mlflow_wandb_plugin.store import forwarder_process
from mlflow_wandb_plugin.store.log_messages import warn_once

CHECK_EVERY_S = 5.0
NO_KEY = "no API key"
NOT_ONLINE = ("offline", "dryrun", "disabled")
"""Values of WANDB_MODE with which wandb needs no key."""


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
        if key_is_missing():
            return f"{NO_KEY} for W&B: set WANDB_API_KEY, or run `wandb login`"
        earlier = outbox.read_trouble(self._folder)
        return earlier and f"earlier runs wait for W&B: {earlier}"


@functools.cache
def key_is_missing() -> bool:
    """Whether wandb cannot find an API key, and needs one: no variable or file may have it.

    Only wandb can be certain that there is one. It is not imported, and a short script may end
    before the forwarder has found out.
    """
    variable = os.environ.get
    if variable("WANDB_API_KEY") or variable("WANDB_IDENTITY_TOKEN_FILE"):
        return False
    if variable("WANDB_MODE") in NOT_ONLINE:
        return False
    return not any(path.expanduser().exists() for path in _files_with_keys())


def _files_with_keys() -> list[Path]:
    config = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    folder = Path(os.environ.get("WANDB_DIR") or ".")
    return [
        Path(os.environ.get("NETRC") or "~/.netrc"),
        Path("~/_netrc"),
        Path(config) / "settings",
        folder / "wandb" / "settings",
        folder / ".wandb" / "settings",
    ]
