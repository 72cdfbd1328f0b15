"""Keep the process running that delivers a folder's journals to W&B, and warn of trouble."""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import time
from pathlib import Path

from mlflow_wandb_plugin.core.helper_process import LOG_NAME, start_replicator
from mlflow_wandb_plugin.core.locks import file_lock
from mlflow_wandb_plugin.core.messages import log_once
from mlflow_wandb_plugin.journal import outbox, request_pipe
from mlflow_wandb_plugin.journal.journal_folder import open_folder
from mlflow_wandb_plugin.journal.status_file import read_status

CHECK_EVERY_S = 5.0
"""Between two checks whether the replicator of a folder runs."""
LONGEST_PAUSE_S = 600.0
"""The longest pause after a replicator that fails as soon as it starts."""
NO_KEY = "no API key"
NOT_ONLINE = ("offline", "dryrun", "disabled")
"""Values of WANDB_MODE with which wandb needs no key."""

_processes: dict[Path, subprocess.Popen[bytes]] = {}
_next_check: dict[Path, float] = {}
_pause_s: dict[Path, float] = {}


def ensure_running(folder: Path) -> None:
    """Start a replicator unless one delivers the journals of ``folder`` to W&B.

    Never raises and never waits. A process that cannot be started now is tried again later; until
    then the journals wait, and ``mlflow-wandb sync`` delivers them, too.
    """
    now = time.monotonic()
    if now < _next_check.get(folder, 0.0):
        return
    _next_check[folder] = now + CHECK_EVERY_S
    try:
        if _is_running(folder):
            return
        before = _processes.pop(folder, None)
        if before is not None and before.poll():
            _pause_s[folder] = min(2 * _pause_s.get(folder, CHECK_EVERY_S), LONGEST_PAUSE_S)
            _next_check[folder] = now + _pause_s[folder]
            log_once(f"the replicator failed; {folder / LOG_NAME} says why")
        _processes[folder] = start_replicator(request_pipe.pipe_path(folder, outbox.TARGET))
    except (OSError, ValueError) as error:
        log_once(f"the replicator cannot start ({error}); `mlflow-wandb sync` delivers")


def _is_running(folder: Path) -> bool:
    open_folder(folder)
    # A shared lock, so that processes that check at the same time do not see one another's.
    with file_lock(folder / outbox.DELIVERY_LOCK, shared=True) as free:
        return not free


def forget_processes() -> None:
    """Forget the replicators: after a fork they are the parent's, and at exit they outlive us.

    Their exit status is set, for `subprocess.Popen` would warn that nobody waited for it.
    """
    for process in _processes.values():
        process.returncode = 0
    _processes.clear()
    _next_check.clear()


os.register_at_fork(after_in_child=forget_processes)
atexit.register(forget_processes)


class DeliveryWatch:
    """Watches the delivery of the journals in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next_check = 0.0
        self._shown: set[str] = set()

    def check_if_due(self, journal: Path) -> None:
        """`check`, unless this did so in the last `CHECK_EVERY_S`."""
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + CHECK_EVERY_S
            self.check(journal)

    def check(self, journal: Path) -> None:
        """Start a replicator unless one runs; warn once of each kind of trouble."""
        ensure_running(self._folder)
        trouble = self._trouble(journal)
        kind = NO_KEY if NO_KEY in trouble else trouble
        if trouble and kind not in self._shown:
            self._shown.add(kind)
            sync = f"`mlflow-wandb sync {self._folder}`"
            log_once(f"{trouble}. Logging to MLflow goes on; {sync} delivers to W&B later")

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
    before the replicator has found out.
    """
    variable = os.environ.get
    has_key = variable("WANDB_API_KEY") or variable("WANDB_IDENTITY_TOKEN_FILE")
    if has_key or variable("WANDB_MODE") in NOT_ONLINE:
        return False
    config, folder = variable("WANDB_CONFIG_DIR") or "~/.config/wandb", variable("WANDB_DIR") or "."
    settings = (config, f"{folder}/wandb", f"{folder}/.wandb")
    files = (
        variable("NETRC") or "~/.netrc",
        "~/_netrc",
        *(f"{each}/settings" for each in settings),
    )
    return not any(os.path.exists(os.path.expanduser(file)) for file in files)
