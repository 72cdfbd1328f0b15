"""Start the process that delivers the journals of a folder to W&B, unless it runs."""

from __future__ import annotations

import atexit
import os
import subprocess
import time
from pathlib import Path

from mlflow_wandb_plugin.core.helper_process import start_helper
from mlflow_wandb_plugin.core.locks import file_lock
from mlflow_wandb_plugin.journal.outbox import FORWARDER_LOCK
from mlflow_wandb_plugin.store.log_messages import warn_once
from mlflow_wandb_plugin.store.uris import MIRROR, OFF

MODULE = "mlflow_wandb_plugin.replicator.forwarder"
LOG_NAME = "forwarder.log"
CHECK_EVERY_S = 5.0
"""Between two checks of `ensure_running` whether the forwarder of a folder runs."""
LONGEST_PAUSE_S = 600.0
"""The longest pause after a forwarder that fails as soon as it starts."""

_processes: dict[Path, subprocess.Popen[bytes]] = {}
_next_check: dict[Path, float] = {}
_pause_s: dict[Path, float] = {}


def ensure_running(folder: Path) -> None:
    """Start a forwarder for the journals in ``folder`` unless one runs.

    Never raises and never waits. A forwarder that cannot be started now is tried again later; until
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
            warn_once(f"the forwarder to W&B failed; {folder / LOG_NAME} says why")
        _processes[folder] = start_helper(MODULE, folder, LOG_NAME, {MIRROR: OFF})
    except (OSError, ValueError) as error:
        warn_once(f"the forwarder to W&B cannot start ({error}); `mlflow-wandb sync` delivers")


def _is_running(folder: Path) -> bool:
    """Whether a process holds the folder's lock."""
    folder.mkdir(parents=True, exist_ok=True)
    # A shared lock, so that processes that check at the same time do not see one another's.
    with file_lock(folder / FORWARDER_LOCK, shared=True) as free:
        return not free


def forget_processes() -> None:
    """Forget the forwarders: after a fork they are the parent's, and at exit they outlive us.

    Their exit status is set, for `subprocess.Popen` would warn that nobody waited for it.
    """
    for process in _processes.values():
        process.returncode = 0
    _processes.clear()
    _next_check.clear()


os.register_at_fork(after_in_child=forget_processes)
atexit.register(forget_processes)
