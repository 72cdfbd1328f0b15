"""Log to a run in a thread of its own, so that the training does not wait."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any

from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_ray.credentials import NoKeyError


class NotLoggedError(MlflowWandbError):
    """What an experiment reported is in neither home."""


class RunThread:
    """Makes the calls of one run in order; none of them raises into the caller.

    If W&B cannot be reached, or there is no key for it, the run becomes an offline one: MLflow gets
    everything, and ``wandb sync`` uploads it to W&B.

    Args:
        start: starts the run; its argument says whether the run must be offline.

    Attributes:
        run: the W&B run; None until it has started, and after its end.
        run_id: its id; empty until it has started.
        error: why the run could not start; None if it did.
    """

    def __init__(self, start: Callable[[bool], Any]) -> None:
        self._start = start
        self.run: Any = None
        self.run_id = ""
        self.error: Exception | None = None
        self._ended = False
        self._lost = 0
        self._pool = ThreadPoolExecutor(1, "mlflow-wandb-ray")
        self._last: Future[None] = self._pool.submit(self._begin)

    @property
    def done(self) -> bool:
        """Whether all calls so far are made."""
        return self._last.done()

    def call(self, what: Callable[[Any], object]) -> None:
        """Call ``what`` with the W&B run after all earlier calls."""
        if not self._ended:
            self._last = self._pool.submit(self._call, what)

    def log(self, row: Mapping[str, Any]) -> None:
        """Log one history row."""
        values = dict(row)
        self.call(lambda run: run.log(values))

    def end(self, exit_code: int) -> None:
        """End the run after all earlier calls; `wait` waits for it."""
        if not self._ended:
            self._ended = True
            self._last = self._pool.submit(self._finish, exit_code)
            # The thread ends with the last call, whether somebody waits for it or not.
            self._pool.shutdown(wait=False)

    def wait(self, seconds: float | None = None) -> None:
        """Wait for all calls so far, at most ``seconds``.

        After `end` this takes what wandb needs to finish, and at most ``finish_timeout``.
        """
        wait_for([self._last], seconds)

    def _begin(self) -> None:
        try:
            try:
                self.run = self._start(False)
            except Exception as error:
                if not _is_unreachable(error):
                    raise
                report(f"{_message(error)}. The run continues offline; `wandb sync` uploads it")
                self.run = self._start(True)
            self.run_id = self.run.id
        except Exception as error:
            self.error = error
            report(f"this run is not logged: {_message(error)}")
        finally:
            # It refers to the callback, and to what the training was given.
            del self._start

    def _call(self, what: Callable[[Any], object]) -> None:
        try:
            if self.run is None:
                self._lost += 1
            else:
                what(self.run)
        except Exception as error:
            report(f"something is not logged: {_message(error)}")

    def _finish(self, exit_code: int) -> None:
        if self.run is None:
            report(f"{self._lost} reports are not logged")
        else:
            self._call(lambda run: run.finish(exit_code=exit_code))
            self.run = None


def not_logged(error: Exception) -> NotLoggedError:
    """Return the error of an experiment of which no run could start, because of ``error``."""
    return NotLoggedError(f"nothing was logged to W&B or MLflow: {_message(error)}")


def report(message: str) -> None:
    """Write a line to the log of this process, which Ray shows to the driver."""
    print(f"mlflow-wandb: {message}", file=sys.stderr, flush=True)


def _is_unreachable(error: Exception) -> bool:
    """Whether an offline run can do what W&B does not: it cannot be reached, or knows no key."""
    import wandb

    return isinstance(error, NoKeyError | wandb.errors.CommError | ConnectionError | TimeoutError)


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, MlflowWandbError) else f"{type(error).__name__}: {error}"
