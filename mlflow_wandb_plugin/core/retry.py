"""Retry with back-off while a source or target does not answer."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from mlflow_wandb_plugin.errors import UnavailableError

T = TypeVar("T")
Limit = TypeVar("Limit", float, "float | None")

_logger = logging.getLogger("mlflow_wandb_plugin")


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
    silent_s = 5.0
    """Seconds of waiting after which a warning is logged, unless ``on_trouble`` is given."""

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
            UnavailableError: ``patience_s`` has passed, or that of the error.
        """
        delay, since, said = self.first_s, None, False
        while True:
            try:
                result = what()
            except UnavailableError as error:
                now = time.monotonic()
                since = now if since is None else since
                spread = delay * random.uniform(0.75, 1.25)
                pause = max(spread, error.retry_after_s or 0.0)
                patience_s = _shorter(self._patience_s, error.patience_s)
                early_s = error.patience_s and error.patience_s / 4
                if patience_s is not None and now + pause - since > patience_s:
                    raise
                if self._on_trouble is not None:
                    self._on_trouble(error, pause)
                elif not said and now + pause - since > _shorter(self.silent_s, early_s):
                    said = True
                    self._say(error, patience_s and patience_s - (now - since))
                if not self._wait(pause):
                    raise
                delay = min(delay * 2, self.longest_s)
            else:
                if since is not None and self._on_recovery is not None:
                    self._on_recovery()
                return result

    def _say(self, error: Exception, left_s: float | None) -> None:
        """Say what is waited for, and for how long yet."""
        left = "" if left_s is None else f" for {left_s:.0f} s more"
        _logger.warning("mlflow-wandb: %s; waiting%s, trying again meanwhile", error, left)


def _shorter(one_s: Limit, other_s: float | None) -> float | Limit:
    if other_s is None or (one_s is not None and one_s <= other_s):
        return one_s
    return other_s


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True
