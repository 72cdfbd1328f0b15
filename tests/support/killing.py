"""Start a command of ours many times, quickly, and kill it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FORKER = """
import os, sys
import mlflow, pyarrow.parquet, sqlalchemy, alembic
import mlflow.store.tracking.sqlalchemy_store
from mlflow_wandb_plugin.cli import main
import mlflow_wandb_plugin.cli.backfill, mlflow_wandb_plugin.sources.wandb_server.source
import mlflow_wandb_plugin.targets.mlflow.target
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.setsid()
        sys.argv = ["mlflow-wandb", *line.split()]
        main()
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forker:
    """A process that has imported everything and forks a command for each line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, line: str, kill_when: Callable[[], object] | None = None) -> int:
        """Run ``mlflow-wandb LINE`` and return its exit code.

        Args:
            kill_when: waits for the moment at which the command is killed; None lets it end.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_when is not None:
            kill_when()
            # The command may have ended meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for answer in self._process.stdout:
            if answer.strip().lstrip("-").isdigit():
                return int(answer)
        raise AssertionError("the forker has ended")


@contextmanager
def forker(env: dict[str, str], where: Path, errors: Path) -> Iterator[Forker]:
    """Start a `Forker` in folder ``where``; what it prints to stderr goes into ``errors``."""
    with errors.open("w") as file, subprocess.Popen(
        [sys.executable, "-c", FORKER], env=env, cwd=where, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=file,
    ) as process:  # fmt: skip
        try:
            yield Forker(process)
        finally:
            process.kill()
