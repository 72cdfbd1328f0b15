"""A real wandb SDK in a child process that runs logging programs on demand.

The parent sends Python lines, the child executes them on a fresh offline run and answers with
where wandb-core's file and the recorded traffic (as a journal) are.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.sources.wandb_local.run_log import EXIT
from mlflow_wandb_plugin.wandb_log.framing import LogReader
from mlflow_wandb_plugin.wandb_log.records import record_type
from tests.support.processes import wait_until


@dataclass(frozen=True)
class Recorded:
    """One program that was run. ``errors`` holds what its lines raised."""

    wandb_file: Path
    journal: Path
    errors: list[str]


class LoggingChild:
    """The parent's end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, lines: list[str]) -> Recorded:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(lines) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the SDK's process ended: see logging_child.log"
        answer = json.loads(line)
        recorded = Recorded(Path(answer["file"]), Path(answer["journal"]), answer["errors"])
        # finish() returns a moment before wandb-core has closed the file.
        wait_until(lambda: _has_exit(recorded.wandb_file), what="wandb-core's exit record")
        return recorded


@contextlib.contextmanager
def logging_child(env: Mapping[str, str], cwd: Path) -> Iterator[LoggingChild]:
    """Start the child; it ends with the context."""
    with open(cwd / "logging_child.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.logging_child"],
            env={**env, "PYTHONPATH": f"{Path(__file__).parents[2]}:{env.get('PYTHONPATH', '')}"},
            cwd=cwd,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            yield LoggingChild(process)
        finally:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _serve() -> None:
    import wandb

    answers = sys.stdout
    sys.stdout = sys.stderr
    for number, line in enumerate(sys.stdin):
        answers.write(json.dumps(_run_one(wandb, json.loads(line), number)) + "\n")
        answers.flush()


def _run_one(wandb: Any, lines: list[str], number: int) -> dict[str, Any]:
    import numpy

    from mlflow_wandb_plugin.journal import writer

    path = Path(f"program-{number}.journal").absolute()
    journal = writer.Journal(path, {})
    original = wandb.Run._set_backend
    wandb.Run._set_backend = _recording(original, journal)
    try:
        run = wandb.init(project="unit", reinit="create_new", settings={"console": "off"})
    finally:
        wandb.Run._set_backend = original
    errors = []
    names = {"run": run, "wandb": wandb, "np": numpy, "nan": float("nan"), "inf": float("inf")}
    for line in lines:
        try:
            exec(line, names)
        except Exception as error:
            errors.append(f"{line}: {error!r}")
    run.finish()
    journal.close()
    return {"file": run.settings.sync_file, "journal": str(path), "errors": errors}


def _recording(set_backend: Any, journal: Any) -> Any:
    from mlflow_wandb_plugin.journal.frames import RECORD
    from mlflow_wandb_plugin.live.tap import kept_kind

    def wrapper(run: Any, backend: Any) -> None:
        set_backend(run, backend)
        interface = getattr(backend, "interface", backend)
        for name in ("_publish", "_deliver"):
            send = getattr(interface, name)

            def recorded(record: Any, *args: Any, _send: Any = send, **kwargs: Any) -> Any:
                result = _send(record, *args, **kwargs)
                if kept_kind(record) is not None:
                    journal.append(RECORD, record.SerializeToString())
                return result

            setattr(interface, name, recorded)

    return wrapper


def _has_exit(path: Path) -> bool:
    return any(record_type(frame.payload) == EXIT for frame in LogReader(path).read())


if __name__ == "__main__":
    _serve()
