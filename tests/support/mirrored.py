"""Write journals as the mirrored store does, for tests of the replicator."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.helper_process import LOG_NAME, MODULE
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.writer import Journal

START_MS = 1_700_000_000_000


class JournalledRun:
    """Writes the journal of one mirrored run; times of operations count up from `START_MS`."""

    def __init__(
        self,
        folder: Path,
        run_id: str,
        project: str = "mirrored",
        role: str = "client",
        **header: Any,
    ) -> None:
        self.run_id = run_id
        self.path = folder / f"{run_id}{frames.SUFFIX}"
        self.files = folder / f"{run_id}.files"
        self._at = START_MS
        self._count = 0
        self._journal = Journal(
            self.path,
            {
                "born": outbox.BORN, "role": role, "mlflow_run_id": run_id, "experiment_id": "7",
                "experiment": "Exp", "tracking_uri": "sqlite:///somewhere.db",
                "project": project, "entity": "", **header,
            },
        )  # fmt: skip

    def op(self, op: str, **fields: Any) -> None:
        self._at += 1
        self._journal.append(outbox.OPERATION, outbox.encode(op, at=self._at, **fields))

    def create(self, name: str = "a run", **tags: str) -> None:
        self.op("create", name=name, user="ann", start_time=START_MS, tags=tags)

    def batch(
        self,
        *metrics: tuple[str, float, int, int],
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Metrics are (key, value, timestamp in ms, step)."""
        self.op("batch", metrics=metrics, params=params or {}, tags=tags or {})

    def points(self, count: int, start: int = 0, key: str = "loss") -> None:
        for i in range(start, start + count):
            self.batch((key, 1 / (i + 1), START_MS + 1000 * i, i))

    def file(self, path: str, content: bytes, model: str | None = None) -> None:
        self._count += 1
        self.files.mkdir(parents=True, exist_ok=True)
        name = f"{os.getpid()}-{self._count}{Path(path).suffix}"
        (self.files / name).write_bytes(content)
        self.op("file", path=path, file=name, model=model)

    def end(self, status: str = "FINISHED") -> None:
        """End the run and close its journal."""
        self.op("update", status=status, end_time=self._at + 5000, name=None)
        self.close()

    def close(self) -> None:
        self._journal.close()


@contextlib.contextmanager
def replicator(
    folder: Path, env: Mapping[str, str], cwd: Path, linger: float = 1.0
) -> Iterator[subprocess.Popen[bytes]]:
    """A replicator in a process group of its own; whatever is left of it is killed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOG_NAME, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(folder / "helper-of-a-test.pipe")],
            env={**env, "MLFLOW_WANDB_LINGER": str(linger)},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def forward(folder: Path, env: Mapping[str, str], cwd: Path, linger: float = 1.0) -> str:
    """Run a replicator to its end; returns what it logged."""
    with replicator(folder, env, cwd, linger) as process:
        process.wait(90)
    log = (folder / LOG_NAME).read_text()
    assert process.returncode == 0, log
    return log
