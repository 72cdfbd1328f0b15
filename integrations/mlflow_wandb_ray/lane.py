"""One run, written by a thread of its own: what drives the training never waits for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any

from mlflow_wandb_plugin.errors import MlflowWandbError


class Lane:
    """The calls of one run, in order. None of them raises into the caller.

    A W&B that cannot be reached, or refuses, makes the run an offline one: MLflow gets everything
    all the same, and ``wandb sync`` uploads the rest.

    Args:
        start: starts the run; the argument ``offline`` says that it must not talk to W&B.
    """

    def __init__(self, start: Callable[[bool], Any]) -> None:
        self._start = start
        self._run: Any = None
        self._ended = False
        self._lost = 0
        self._pool = ThreadPoolExecutor(1, "mlflow-wandb-ray")
        self._last: Future[None] = self._pool.submit(self._begin)

    def call(self, what: Callable[[Any], object]) -> None:
        """Call ``what`` with the W&B run once everything before has been done."""
        if not self._ended:
            self._last = self._pool.submit(self._carry, what)

    def log(self, row: Mapping[str, Any]) -> None:
        values = dict(row)
        self.call(lambda run: run.log(values))

    def end(self, exit_code: int) -> None:
        """End the run once everything has been logged; `wait` waits for it."""
        if self._ended:
            return
        self._ended = True
        self._last = self._pool.submit(self._finish, exit_code)

    def wait(self, seconds: float | None = None) -> None:
        """Wait for what was called so far. After `end`, it takes no longer than wandb needs and
        ``finish_timeout`` allows."""
        wait_for([self._last], seconds)
        if self._ended:
            self._pool.shutdown(wait=False)

    @property
    def run(self) -> Any:
        """The W&B run; None until it has started."""
        return self._run

    def _begin(self) -> None:
        try:
            self._run = self._start(False)
        except Exception as error:
            said(f"{_in_words(error)}. The run goes on offline; `wandb sync` uploads it")
            try:
                self._run = self._start(True)
            except Exception as second:
                said(f"this run is not logged: {_in_words(second)}")

    def _carry(self, what: Callable[[Any], object]) -> None:
        try:
            if self._run is None:
                self._lost += 1
            else:
                what(self._run)
        except Exception as error:
            said(f"something is not logged: {_in_words(error)}")

    def _finish(self, exit_code: int) -> None:
        if self._run is None:
            said(f"{self._lost} reports are not logged")
            return
        self._carry(lambda run: run.finish(exit_code=exit_code))


def said(message: str) -> None:
    """A line in the log of Ray's process, which Ray shows to the driver."""
    print(f"mlflow-wandb: {message}", file=sys.stderr, flush=True)


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, MlflowWandbError) else f"{type(error).__name__}: {error}"
