"""Start the training process's replicator and ask it to ship journals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import threading
from pathlib import Path

from mlflow_wandb_plugin.core.helper_process import start_helper
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.settings import Settings

LOG_NAME = "replicator.log"


class Replicator:
    """The helper process for all runs of this process; it outlives this process to finish."""

    _instance: Replicator | None = None

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of_this_process(cls) -> Replicator:
        if cls._instance is None or cls._instance._pid != os.getpid():
            cls._instance = Replicator()
        return cls._instance

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, journals: Path) -> None:
        """Start the process unless it runs. Never raises: without it, journals wait for sync."""
        with self._lock:
            if self.alive():
                return
            try:
                self._process = start_helper(
                    "mlflow_wandb_plugin.replicator", journals, LOG_NAME, stdin=subprocess.PIPE
                )
            except OSError as error:
                warn_once(f"the replicator cannot start ({error}); `mlflow-wandb sync` delivers")

    def ship(self, journal: Path, tracking_uri: str, settings: Settings) -> None:
        """Ask the replicator to ship ``journal``, through a pipe: the URI may have a password."""
        request = {
            "journal": str(journal),
            "tracking_uri": tracking_uri,
            "settings": dataclasses.asdict(settings),
        }
        with self._lock:
            if self._process is None or self._process.stdin is None:
                return
            with contextlib.suppress(OSError):
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
