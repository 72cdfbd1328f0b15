"""Retry with back-off while a source or target does not answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from mlflow_wandb_plugin.errors import UnavailableError

T = TypeVar("T")


class Backoff:
    """Repeat calls while their source or target is unavailable.

    Args:
        patience_s: seconds after the first failure in which calls are repeated; None for ever.
        wait: sleeps for a number of seconds; returns False to stop the retries (then the error is
            raised). Default: an uninterrupted sleep.
        on_trouble: is called with the error and the seconds until the next try.
        on_recovery: is called when a call succeeds after an error.
    """

    first_s = 0.25
    longest_s = 15.0

    def __init__(
        self,
        patience_s: float | None = 300.0,
        wait: Callable[[float], bool] | None = None,
        on_trouble: Callable[[Exception, float], object] | None = None,
        on_recovery: Callable[[], object] | None = None,
    ) -> None:
        self._patience_s = patience_s
        self._wait = wait or _sleep
        self._on_trouble = on_trouble
        self._on_recovery = on_recovery

    def call(self, what: Callable[[], T]) -> T:
        """Return ``what()``.

        Raises:
            UnavailableError: ``patience_s`` has passed.
        """
        delay, since = self.first_s, None
        while True:
            try:
                result = what()
            except UnavailableError as error:
                now = time.monotonic()
                since = now if since is None else since
                spread = delay * random.uniform(0.75, 1.25)
                pause = max(spread, error.retry_after_s or 0.0)
                if self._patience_s is not None and now + pause - since > self._patience_s:
                    raise
                if self._on_trouble is not None:
                    self._on_trouble(error, pause)
                if not self._wait(pause):
                    raise
                delay = min(delay * 2, self.longest_s)
            else:
                if since is not None and self._on_recovery is not None:
                    self._on_recovery()
                return result


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True
