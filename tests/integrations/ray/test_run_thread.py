"""One run, written by a thread: in order, never raising, offline where W&B refuses."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from wandb.errors import CommError

from mlflow_wandb_ray.credentials import NoKeyError
from mlflow_wandb_ray.run_thread import RunThread, not_logged


class Run:
    """The part of a W&B run that a RunThread uses; it is also what starts it."""

    id = "x"

    def __init__(self) -> None:
        self.offline = False
        self.rows: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []

    def start(self, offline: bool) -> Run:
        self.offline = offline
        return self

    def log(self, row: dict[str, Any]) -> None:
        if "bad" in row:
            raise ValueError("wandb's own")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


def test_calls_do_not_wait_and_keep_their_order() -> None:
    """While the run is still starting, reports are taken at once; all arrive, once."""
    gate, run = threading.Event(), Run()

    def start(offline: bool) -> Run:
        gate.wait(20)
        return run.start(offline)

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
    assert run.rows == [{"n": number} for number in range(100)]
    assert run.exit_codes == [1]
    assert thread.done
    assert (thread.run, thread.run_id, thread.error) == (None, "x", None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NoKeyError("no W&B API key"), "no W&B API key"),
        (CommError("timed out"), "CommError: timed out"),
        (ConnectionError("refused"), "ConnectionError: refused"),
    ],
)
def test_a_wandb_that_cannot_be_reached_makes_the_run_an_offline_one(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is said in one line, and nothing is lost."""
    run = Run()

    def start(offline: bool) -> Run:
        if not offline:
            raise error
        return run.start(offline)

    thread = RunThread(start)
    thread.log({"n": 1})
    thread.end(0)
    thread.wait(20)
    assert run.offline
    assert run.rows == [{"n": 1}]
    line = f"mlflow-wandb: {said}. The run continues offline; `wandb sync` uploads it\n"
    assert capsys.readouterr().err == line


def test_another_error_is_not_told_as_offline(capsys: pytest.CaptureFixture[str]) -> None:
    """The run is not tried a second time, its reports are counted, and the error is kept."""
    starts: list[bool] = []

    def start(offline: bool) -> Run:
        starts.append(offline)
        raise ValueError("wandb's own")

    thread = RunThread(start)
    thread.log({"n": 1})
    thread.log({"n": 2})
    thread.end(0)
    thread.wait(20)
    assert starts == [False]
    said = capsys.readouterr().err
    assert "this run is not logged: ValueError: wandb's own" in said
    assert "2 reports are not logged" in said
    assert "offline" not in said
    assert isinstance(thread.error, ValueError)
    assert "nothing was logged to W&B or MLflow: ValueError: wandb's own" in str(
        not_logged(thread.error)
    )


def test_a_row_that_wandb_refuses_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """The rest goes on."""
    run = Run()
    thread = RunThread(run.start)
    thread.log({"bad": 1})
    thread.log({"n": 1})
    thread.end(0)
    thread.wait(20)
    assert run.rows == [{"n": 1}]
    assert "something is not logged: ValueError: wandb's own" in capsys.readouterr().err
