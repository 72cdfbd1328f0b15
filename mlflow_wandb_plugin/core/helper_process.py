"""Start the helper process of a folder of journals: its environment, its log, its low priority."""

from __future__ import annotations

import contextlib
import os
import site
import subprocess
import sys
from pathlib import Path

from mlflow_wandb_plugin.core.private_files import open_fd, private_folder
from mlflow_wandb_plugin.settings import PREFIX

MODULE = "mlflow_wandb_plugin.replicator"
LOG_NAME = "replicator.log"
"""The file for the process's output, in the folder of journals; it is appended to."""
NICENESS = 5


def start_replicator(pipe: Path) -> subprocess.Popen[bytes]:
    """Start the process that delivers the journals in a folder; it outlives this process, and ends
    at once if another one reads the pipe.

    Args:
        pipe: where it is sent requests, see `journal.request_pipe`.

    Raises:
        OSError: the process cannot be started, or the log cannot be written.
    """
    private_folder(pipe.parent)
    log = open_fd(pipe.with_name(LOG_NAME), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        # A session of its own: Ctrl-C and a killed process group do not reach it.
        return subprocess.Popen(
            [sys.executable, "-m", MODULE, str(pipe)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=helper_environment(),
            start_new_session=True,
        )
    finally:
        os.close(log)


def helper_environment() -> dict[str, str]:
    """This process's environment, less what would make the helper record a run of its own or
    connect to this process's wandb-core."""
    own = {f"{PREFIX}HOMES": "wandb", f"{PREFIX}MIRROR": "off", "PYTHONSAFEPATH": "1"}
    environment = {**os.environ, **own}
    for name in ("WANDB_SERVICE", f"{PREFIX}AUTOLOG"):
        environment.pop(name, None)
    package_folder = str(Path(__file__).resolve().parents[2])
    if package_folder not in (*site.getsitepackages(), site.getusersitepackages()):
        # A checkout that is on sys.path but not installed.
        path = [package_folder, environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
    return environment


def lower_priority() -> None:
    """Lower this process's priority, so that it does not slow down training on a busy machine.

    A system that has no niceness, or forbids changing it, is left as it is.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.nice(max(0, NICENESS - os.nice(0)))
