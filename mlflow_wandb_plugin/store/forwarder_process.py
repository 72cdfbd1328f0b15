"""Starts the process that carries the journals of a folder to W&B, unless it runs."""

from __future__ import annotations

import atexit
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from mlflow_wandb_plugin.core.helper_process import helper_environment
from mlflow_wandb_plugin.store.log_messages import warn_once
from mlflow_wandb_plugin.store.uris import MIRROR, OFF

MODULE = "mlflow_wandb_plugin.replicator.forwarder"
LOCK = "forwarder.lock"
LOG = "forwarder.log"
PAUSE_S = 5.0
"""How long `ensure` does not look again."""
PATIENCE_S = 600.0
"""The longest pause after a forwarder that fails as soon as it starts."""

_processes: dict[Path, subprocess.Popen[bytes]] = {}
_next: dict[Path, float] = {}
_pause: dict[Path, float] = {}


def ensure(folder: Path) -> None:
    """Have a forwarder follow the journals in ``folder``.

    Never raises and never waits. What cannot be started now is tried again later; until then the
    journals wait, and ``mlflow-wandb sync`` delivers them, too.
    """
    now = time.monotonic()
    if now < _next.get(folder, 0.0):
        return
    _next[folder] = now + PAUSE_S
    try:
        if _is_running(folder):
            return
        before = _processes.pop(folder, None)
        if before is not None and before.poll():
            _pause[folder] = min(2 * _pause.get(folder, PAUSE_S), PATIENCE_S)
            _next[folder] = now + _pause[folder]
            warn_once(f"the forwarder to W&B failed; {folder / LOG} says why")
        _processes[folder] = _start(folder)
    except (OSError, ValueError) as error:
        warn_once(f"the forwarder to W&B cannot start ({error}); `mlflow-wandb sync` delivers")


def forget() -> None:
    """After a fork the parent's children are not ours, and at the end ours outlives us: Popen is
    not to complain that nobody waited."""
    for process in _processes.values():
        process.returncode = 0
    _processes.clear()
    _next.clear()


def _is_running(folder: Path) -> bool:
    """Whether somebody holds the folder's lock. Taking it shared disturbs nobody for long."""
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _start(folder: Path) -> subprocess.Popen[bytes]:
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # A session of its own: Ctrl-C and a killed process group do not reach it.
        return subprocess.Popen(
            [sys.executable, "-m", MODULE, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=helper_environment(**{MIRROR: OFF}),
            start_new_session=True,
        )
    finally:
        os.close(log)


os.register_at_fork(after_in_child=forget)
atexit.register(forget)
