"""One run, written by a thread: in order, never raising, offline where W&B refuses."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_ray.run_thread import RunThread


class Run:
    """The part of a W&B run that a RunThread uses."""

    def __init__(self, offline: bool) -> None:
        self.offline = offline
        self.rows: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []

    def log(self, row: dict[str, Any]) -> None:
        if "bad" in row:
            raise ValueError("wandb's own")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


def test_calls_do_not_wait_and_keep_their_order() -> None:
    """While the run is still starting, reports are taken at once; all arrive, once."""
    gate = threading.Event()

    def start(offline: bool) -> Run:
        gate.wait(20)
        return Run(offline)

    thread = RunThread(start)
    began = time.monotonic()
    row = {"n": 0}
    for number in range(100):
        row["n"] = number
        thread.log(row)
    thread.end(1)
    thread.end(0)
    thread.log({"n": "too late"})
    assert time.monotonic() - began < 5
    assert thread.run is None
    gate.set()
    thread.wait(20)
    assert thread.run.rows == [{"n": number} for number in range(100)]
    assert thread.run.exit_codes == [1]


def test_a_refusal_makes_the_run_an_offline_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The reason is said in one line, and nothing is lost."""

    def start(offline: bool) -> Run:
        if not offline:
            raise UsageError("no W&B API key")
        return Run(offline)

    thread = RunThread(start)
    thread.log({"n": 1})
    thread.end(0)
    thread.wait(20)
    assert thread.run.offline
    assert thread.run.rows == [{"n": 1}]
    said = capsys.readouterr().err
    assert (
        said == "mlflow-wandb: no W&B API key. The run continues offline; `wandb sync` uploads it\n"
    )


def test_what_is_lost_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """A row that wandb refuses, and all rows of a run that never starts; the rest goes on."""
    thread = RunThread(Run)
    thread.log({"bad": 1})
    thread.log({"n": 1})
    thread.end(0)
    thread.wait(20)
    assert thread.run.rows == [{"n": 1}]
    assert "something is not logged: ValueError: wandb's own" in capsys.readouterr().err

    def start(offline: bool) -> Run:
        raise OSError("disk full")

    thread = RunThread(start)
    thread.log({"n": 1})
    thread.log({"n": 2})
    thread.end(0)
    thread.wait(20)
    assert "2 reports are not logged" in capsys.readouterr().err
