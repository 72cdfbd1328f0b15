"""Start helper processes: their environment, their log file, and their low priority."""

from __future__ import annotations

import contextlib
import os
import site
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mlflow_wandb_plugin.core.private_files import open_fd, private_folder
from mlflow_wandb_plugin.settings import PREFIX

NICENESS = 5


def start_helper(
    module: str,
    folder: Path,
    log_name: str,
    variables: Mapping[str, str] = {},
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start ``python -m MODULE FOLDER``; it outlives this process.

    Args:
        log_name: file in ``folder`` for the output; it is appended to.
        variables: environment variables beside those of `helper_environment`.

    Raises:
        OSError: the process cannot be started, or the log cannot be written.
    """
    private_folder(folder)
    log = open_fd(folder / log_name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        # A session of its own: Ctrl-C and a killed process group do not reach it.
        return subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            stdin=stdin,
            stdout=log,
            stderr=log,
            env={**helper_environment(), **variables},
            start_new_session=True,
        )
    finally:
        os.close(log)


def helper_environment() -> dict[str, str]:
    """This process's environment, less what would make the helper record a run of its own or
    connect to this process's wandb-core."""
    environment = {**os.environ, f"{PREFIX}HOMES": "wandb", "PYTHONSAFEPATH": "1"}
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
