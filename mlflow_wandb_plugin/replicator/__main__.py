"""``python -m mlflow_wandb_plugin.replicator PIPE``: deliver the journals in the folder of PIPE.

There is one such process for each folder, whatever the number of processes that write journals
there: it delivers those of W&B runs to MLflow, and those of MLflow runs to W&B. The processes that
write start it, and send it requests through the named pipe. While one of them has the pipe open, or
something can still be delivered, it stays; then it waits a while for more, and ends. What is left
stays in the journals.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from mlflow_wandb_plugin.core.helper_process import LOG_NAME, MODULE, lower_priority
from mlflow_wandb_plugin.core.training_settings import load_settings
from mlflow_wandb_plugin.journal.journal_folder import remove_empty
from mlflow_wandb_plugin.journal.request_pipe import RequestReader, open_reader
from mlflow_wandb_plugin.settings import PREFIX

POLL_S = 0.2
LONGEST_WAIT_S = 5.0
"""How long the process waits for more, if it only wrote to MLflow, or nothing at all."""
RESTARTS, MOST_RESTARTS = f"{PREFIX}REPLICATOR_STARTS", 5
"""The environment variable that counts restarts after wandb-core died, and its limit."""


class ReplicatorProcess:
    """Delivers the journals of one folder, in both directions, until there is nothing to do."""

    def __init__(self, folder: Path) -> None:
        from mlflow_wandb_plugin.core.partial_import import allow_partial_import
        from mlflow_wandb_plugin.replicator.mirror_deliveries import MirrorDeliveries
        from mlflow_wandb_plugin.replicator.mlflow_deliveries import MlflowDeliveries
        from mlflow_wandb_plugin.targets.wandb.log_upload import unset_user_run_variables

        allow_partial_import()
        unset_user_run_variables()
        self._to_mlflow = MlflowDeliveries(folder)
        self._to_wandb = MirrorDeliveries(folder)
        self._linger_s = load_settings().linger
        self._used = False

    def run(self, requests: RequestReader) -> None:
        """Work until there is nothing left to do."""
        idle_since = time.monotonic()
        while not self.core_gone:
            for request in requests.read(POLL_S):
                self._to_mlflow.take(request)
            self._to_mlflow.note_trainers(requests.connected)
            mirrors = self._to_wandb.work()
            if mirrors or requests.connected or self._to_mlflow.busy:
                self._used, idle_since = True, time.monotonic()
            elif time.monotonic() - idle_since >= self._patience_s():
                break
        self._to_wandb.stop()

    @property
    def core_gone(self) -> bool:
        """Whether wandb-core died, so that only a new process can deliver to W&B."""
        return self._to_wandb.core_gone

    def has_more(self) -> bool:
        """Whether a journal appeared while the process still had its pipe or its lock: then nobody
        started another one."""
        return self._to_wandb.can_proceed()

    def _patience_s(self) -> float:
        if self._to_wandb.any_seen:
            return self._linger_s
        return min(self._linger_s, LONGEST_WAIT_S) if self._used else LONGEST_WAIT_S


def deliver(pipe: Path) -> bool:
    """Deliver what is in the folder of ``pipe``, unless another process does.

    Returns:
        False where wandb-core died: a new process has to go on.
    """
    while True:
        # First of all: the processes that started this one wait for it.
        requests = open_reader(pipe)
        if requests is None:
            return True
        process = ReplicatorProcess(pipe.parent)
        try:
            process.run(requests)
        finally:
            requests.close()
            remove_unused(pipe.parent)
        if process.core_gone or not process.has_more():
            return not process.core_gone


def remove_unused(folder: Path) -> None:
    """Remove an empty log, and the folder if there is nothing else: a script may start no run."""
    log = folder / LOG_NAME
    with contextlib.suppress(OSError):
        if not log.stat().st_size:
            log.unlink()
        remove_empty(folder)


def main() -> None:
    lower_priority()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    done = deliver(Path(sys.argv[1]))
    sys.stdout.flush()
    restarts = int(os.environ.get(RESTARTS) or 0)
    if not done and restarts < MOST_RESTARTS:
        os.environ[RESTARTS] = str(restarts + 1)
        os.execv(sys.executable, [sys.executable, "-m", MODULE, *sys.argv[1:]])
    # Threads that wait for a W&B that does not answer would delay the interpreter's exit; their
    # journals are complete, and wandb-core ends with this process.
    os._exit(0)


if __name__ == "__main__":
    main()
