"""Real `mlflow server` processes that a campaign can signal and start again."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.processes import SERVER_START_S, free_port, wait_until
from tests.support.stores import copy_store


class MlflowServer:
    """`mlflow server` on loopback with a SQLite database in ``folder``.

    Args:
        template: an empty MLflow database.
        env: its whole environment.
        prefix: ``wandb+`` for a server that mirrors.
    """

    def __init__(
        self,
        folder: Path,
        template: Path,
        env: Mapping[str, str],
        prefix: str = "",
        workers: int = 1,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = folder / "server.db"
        self._folder, self._workers = folder, workers
        # Its runner of jobs would be one process more to wait for at each start.
        self._env = {**env, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        folder.mkdir(parents=True, exist_ok=True)
        self._uri = prefix + copy_store(template, self.database)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(self.port), "--workers", str(self._workers),
            "--backend-store-uri", self._uri,
            "--artifacts-destination", str(self._folder / "artifacts"),
        ]  # fmt: skip
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command, env=self._env, cwd=self._folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        process = self._process
        wait_until(
            lambda: self.answers() or process.poll() is not None, SERVER_START_S, "mlflow server"
        )

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def restart(self) -> None:
        """Start it again, once it has ended or after at most 5 s."""
        assert self._process is not None
        deadline = time.monotonic() + 5
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        self.end()
        self.start()

    def end(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait(timeout=30)


@contextlib.contextmanager
def running(server: MlflowServer) -> Iterator[MlflowServer]:
    """Start ``server``, and end it with the context."""
    try:
        server.start()
        yield server
    finally:
        server.end()
