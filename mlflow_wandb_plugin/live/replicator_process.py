"""The training process's handle on its replicator: start it, tell it what to follow."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from mlflow_wandb_plugin.core.helper_process import helper_environment
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.settings import Settings

LOG_NAME = "replicator.log"


class Replicator:
    """One helper process for all runs of this process; it outlives us to finish its work."""

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
                journals.mkdir(parents=True, exist_ok=True)
                log = os.open(
                    journals / LOG_NAME,
                    os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
                    0o600,
                )
                try:
                    # A session of its own: Ctrl-C and a killed process group do not reach it.
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "mlflow_wandb_plugin.replicator", str(journals)],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        env=helper_environment(),
                        start_new_session=True,
                    )
                finally:
                    os.close(log)
            except OSError as error:
                warn_once(f"the replicator cannot start ({error}); `mlflow-wandb sync` delivers")

    def follow(self, journal: Path, tracking_uri: str, settings: Settings) -> None:
        """Ask the replicator to ship ``journal``. The URI, maybe with a password, goes by pipe."""
        order = {
            "journal": str(journal),
            "tracking_uri": tracking_uri,
            "settings": dataclasses.asdict(settings),
        }
        with self._lock:
            if self._process is None or self._process.stdin is None:
                return
            with contextlib.suppress(OSError):
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()
