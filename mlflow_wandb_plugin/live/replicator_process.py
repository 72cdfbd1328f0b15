"""The helper process that ships the journals of this process's runs to MLflow."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import threading
import time
from pathlib import Path

from mlflow_wandb_plugin.core.helper_process import start_helper
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.settings import Settings

LOG_NAME = "replicator.log"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Between two starts of a replicator that ends each time; the pause doubles."""


class Replicator:
    """The helper process for all runs of this process; it outlives this process to finish.

    If it ends before this process does, it is started again.
    """

    _instance: Replicator | None = None

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()
        self._requests: dict[Path, bytes] = {}
        self._started_s = 0.0
        self._pause_s = FIRST_PAUSE_S

    @classmethod
    def of_this_process(cls) -> Replicator:
        if cls._instance is None or cls._instance._pid != os.getpid():
            cls._instance = Replicator()
        return cls._instance

    def start(self, journals: Path) -> None:
        """Start the process unless it runs. Never raises: without it, journals wait for sync.

        Args:
            journals: the folder of its log, and of journals that earlier processes have left.
        """
        with self._lock:
            if not self._alive():
                self._folder = journals
                self._start()

    def ship(self, journal: Path, tracking_uri: str, settings: Settings) -> None:
        """Ask the replicator to ship ``journal``, through a pipe: the URI may have a password."""
        request = {"journal": str(journal), "tracking_uri": tracking_uri}
        line = json.dumps(request | {"settings": dataclasses.asdict(settings)}) + "\n"
        with self._lock:
            # A delivered journal is removed.
            known = {path: text for path, text in self._requests.items() if path.exists()}
            self._requests = {**known, journal: line.encode()}
            self._write(journal)

    def revive(self) -> bool:
        """Start the process again if it has ended, unless it did so a moment ago.

        Returns:
            False if it cannot be started.
        """
        with self._lock:
            if self._alive() or time.monotonic() < self._started_s + self._pause_s:
                return True
            return self._start()

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _start(self) -> bool:
        """Start the process, and ask it for all journals that are left. The lock is held."""
        now = time.monotonic()
        soon = self._process is not None and now < self._started_s + 2 * LONGEST_PAUSE_S
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S) if soon else FIRST_PAUSE_S
        self._started_s = now
        try:
            self._process = start_helper(
                "mlflow_wandb_plugin.replicator", self._folder, LOG_NAME, stdin=subprocess.PIPE
            )
        except OSError as error:
            warn_once(f"the replicator cannot start ({error}); `mlflow-wandb sync` delivers")
            return False
        for journal in self._requests:
            if journal.exists():
                self._write(journal)
        threading.Thread(
            target=self._watch, args=(self._process,), name="mlflow-wandb", daemon=True
        ).start()
        return True

    def _write(self, journal: Path) -> None:
        with contextlib.suppress(OSError):
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.write(self._requests[journal])
                self._process.stdin.flush()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of ``process``, which is not due before this process's, and replace it.

        This thread sleeps in the operating system until then.
        """
        code = process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        log = self._folder / LOG_NAME
        warn_once(
            f"the process that writes to MLflow {how}; it is started again and goes on from the "
            f"journal. If this happens often, {log} may say why"
        )
        while self._process is process and self.revive() and self._process is process:
            time.sleep(max(FIRST_PAUSE_S, self._started_s + self._pause_s - time.monotonic()))
