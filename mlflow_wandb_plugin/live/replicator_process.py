"""Keep the helper process of a folder of journals running, and send it this process's requests.

All processes that write journals into a folder share one helper. Each of them holds the request
pipe open, notices when the helper ends, and starts another one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from mlflow_wandb_plugin.core.helper_process import LOG_NAME, start_replicator
from mlflow_wandb_plugin.journal import request_pipe
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.settings import Settings

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Between two starts of a replicator that ends each time; the pause doubles."""
CONNECT_POLL_S = 0.02
LOOK_EVERY_S = 1.0
"""Between two looks for requests that the pipe did not take at once."""


class Replicator:
    """The helper process for journals of one folder, as this process sees it.

    Attributes:
        trouble: why it cannot be started; empty if it can.
    """

    _known: ClassVar[dict[Path, Replicator]] = {}
    _known_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, pipe: Path, uri: str) -> None:
        self.trouble = ""
        self._uri = uri
        self._pipe = pipe
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._requests: dict[Path, dict[str, Any]] = {}
        self._unsent: set[Path] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._next_start_s = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._released = False

    @classmethod
    def start(cls, folder: Path, uri: str) -> Replicator:
        """Return the replicator of ``folder`` that can write to the MLflow at ``uri``; a thread
        starts it unless it runs, and again if it ends. Never raises: without it, journals wait for
        ``mlflow-wandb sync``.
        """
        pipe = request_pipe.pipe_path(folder, uri)
        with cls._known_lock:
            found = cls._known.get(pipe)
            if found is None:
                found = cls._known[pipe] = Replicator(pipe, uri)
                threading.Thread(target=found._supervise, name="mlflow-wandb", daemon=True).start()
                cls._release_unused(found)
            return found

    @classmethod
    def _release_unused(cls, used: Replicator) -> None:
        """Let go of replicators that were started early for another folder or other credentials."""
        for pipe, other in list(cls._known.items()):
            if other is not used and not any(path.exists() for path in other._requests):
                other._released = True
                del cls._known[pipe]

    @classmethod
    def after_fork(cls) -> None:
        """In a forked child, forget the parent's replicators."""
        cls.at_exit()
        for replicator in cls._known.values():
            if replicator._fd is not None:
                os.close(replicator._fd)
        cls._known = {}
        cls._known_lock = threading.Lock()

    @classmethod
    def at_exit(cls) -> None:
        """Leave the processes to themselves; they outlive this one.

        Their exit status is set, for `subprocess.Popen` would warn that nobody waited for it.
        """
        for replicator in cls._known.values():
            if replicator._process is not None:
                replicator._process.returncode = 0

    def ship(self, journal: Path, uri: str, settings: Settings) -> None:
        """Ask the replicator to ship ``journal``, now and whenever another one takes its place.

        Args:
            uri: MLflow's tracking URI, maybe with a password.
        """
        request = {
            "journal": journal.name,
            "tracking_uri": uri,
            "experiment": settings.experiment,
            "linger_s": settings.linger,
            "chosen_folder": bool(settings.journal_dir),
        }
        with self._lock:
            # A delivered journal is removed.
            self._requests = {path: kept for path, kept in self._requests.items() if path.exists()}
            self._requests[journal] = request
            self._unsent.add(journal)
            # Not by the thread alone: a forked process may end before it has run.
            self._connect()
            self._send_unsent()

    def _connect(self) -> int | None:
        """Open the pipe, if a replicator reads it; None otherwise. The lock is held."""
        if self._fd is None:
            self._fd = request_pipe.open_writer(self._pipe)
            if self._fd is not None:
                # So that it imports what it needs to write there.
                request_pipe.send(self._fd, {"journal": "", "tracking_uri": self._uri})
                self._unsent = {path for path in self._requests if path.exists()}
        return self._fd

    def _send_unsent(self) -> None:
        """Send what is waiting, as far as there is a replicator. The lock is held."""
        for journal in list(self._unsent):
            if self._fd is None or not request_pipe.send(self._fd, self._requests[journal]):
                return
            self._unsent.discard(journal)

    def _supervise(self) -> None:
        while not self._released:
            with self._lock:
                fd = self._connect()
            if fd is None:
                self._start_if_due()
                time.sleep(CONNECT_POLL_S)
                continue
            while not self._released and not request_pipe.wait_for_end(fd, LOOK_EVERY_S):
                with self._lock:
                    self._send_unsent()
            with self._lock:
                self._fd = None
            os.close(fd)
            if not self._released:
                self._say_that_it_ended()

    def _start_if_due(self) -> None:
        now = time.monotonic()
        if now < self._next_start_s or (self._process is not None and self._process.poll() is None):
            return
        late_s = now - self._next_start_s
        again = self._process is not None and late_s < LONGEST_PAUSE_S
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S) if again else FIRST_PAUSE_S
        self._next_start_s = now + self._pause_s
        try:
            self._process = start_replicator(self._pipe)
            self.trouble = ""
        except OSError as error:
            self.trouble = f"the replicator cannot start ({error}); `mlflow-wandb sync` delivers"
        if self.trouble and self._requests:
            warn_once(self.trouble)

    def _say_that_it_ended(self) -> None:
        how = "ended"
        if self._process is not None:
            # It may be one that ended at once, because another process had started one before.
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(1.0)
                how = f"was killed by signal {-code}" if code < 0 else how
                how = f"ended with exit code {code}" if code > 0 else how
        log = self._pipe.with_name(LOG_NAME)
        warn_once(
            f"the process that writes to MLflow {how}; it is started again and goes on from the "
            f"journal. If this happens often, {log} may say why"
        )


os.register_at_fork(after_in_child=Replicator.after_fork)
atexit.register(Replicator.at_exit)
