"""One training script of a trial: its private folder, its environment, its process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from faults.ledger import Ledger, read_ledger
from tests.support.commands import COMMAND
from tests.support.environment import isolated
from tests.wandb_server import WandbServer

ROOT = Path(__file__).resolve().parents[1]
CLOCK = Path(__file__).with_name("clock")
END_S = 90.0
"""A script, or a command, that goes on for longer is ended and counts as hanging."""
POLL_S = 0.02


def environment(
    folder: Path, wandb: WandbServer, wandb_url: str, tracking_uri: str
) -> dict[str, str]:
    """Everything that a script, and what it starts, needs; its files lie in ``folder``."""
    return isolated(
        folder,
        PYTHONPATH=os.pathsep.join([str(CLOCK), str(ROOT)]),
        PYTHONWARNINGS="ignore",
        FAULTS_CLOCK=str(folder / "clock"),
        NO_PROXY="127.0.0.1",
        WANDB_MODE="online",
        WANDB_BASE_URL=wandb_url,
        WANDB_API_KEY=wandb.api_key,
        WANDB_ENTITY=wandb.store.user.username,
        WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL="1",
        **{
            f"WANDB_X_{kind}_{name}_SECONDS": value
            for kind in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
            for name, value in (("RETRY_WAIT_MIN", "1"), ("RETRY_WAIT_MAX", "2"), ("TIMEOUT", "5"))
        },
        MLFLOW_TRACKING_URI=tracking_uri,
        MLFLOW_HTTP_REQUEST_TIMEOUT="5",
        MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="1",
        MLFLOW_WANDB_LINGER="5",
        MLFLOW_WANDB_JOURNAL_DIR=str(folder / "journals"),
    )


class Script:
    """A training script, which may be started several times.

    Args:
        module: below ``faults.programs``.
        run: the run's id, or the experiment's name.
    """

    def __init__(
        self, folder: Path, env: Mapping[str, str], module: str, run: str, rows: int, resume: bool
    ) -> None:
        self.folder, self.env, self.rows = folder, dict(env), rows
        self.home = Path(env["HOME"])
        self.run = run
        self._ledger = folder / "ledger"
        how = "resume" if resume else "once"
        self._command = [
            sys.executable, "-m", f"faults.programs.{module}", str(self._ledger), run, str(rows),
            how,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def ledger(self) -> Ledger:
        return read_ledger(self._ledger)

    def start(self) -> None:
        with open(self.folder / "output.txt", "ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def wait_for(self, condition: Callable[[], object], seconds: float) -> bool:
        """Wait until ``condition`` holds or the script has ended; returns whether it holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.ended or time.monotonic() > deadline:
                return bool(condition())
            time.sleep(POLL_S)
        return True

    def wait(self) -> bool:
        """Wait for the script's end; returns False if it had to be killed."""
        try:
            self.process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def kill(self) -> None:
        """Kill the script, if it runs; not what it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=30)

    def command(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Run ``mlflow-wandb`` with ``arguments``, in the script's environment or ``env``.

        What it prints goes to ``commands.txt``. Returns what is wrong with its end, or nothing.
        """
        with open(self.folder / "commands.txt", "ab") as output:
            output.write(f"$ mlflow-wandb {' '.join(map(str, arguments))}\n".encode())
            output.flush()
            process = subprocess.Popen(
                [COMMAND, *map(str, arguments)], env=dict(env or self.env), cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(timeout=END_S)
            except subprocess.TimeoutExpired:
                return f"mlflow-wandb {arguments[0]} goes on for more than {END_S:.0f} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=30)
        return f"mlflow-wandb {arguments[0]}: exit code {code}" if code else ""
