"""Limit the requests to a server: more at once while it answers, fewer when it refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from mlflow_wandb_plugin.errors import UnavailableError


class RequestGate(Protocol):
    """Decides when a request may be sent."""

    def turn(self) -> AbstractContextManager[None]:
        """Wait until a request may be sent; the request is the body of the ``with``."""


class Pace:
    """The number of requests that may run at once: it grows with answers and halves on a refusal.

    It neither waits nor counts requests. Times are seconds of one clock.

    Args:
        start, most: requests at once, at first and at most.
    """

    def __init__(self, start: float = 4.0, most: float = 32.0) -> None:
        self._limit = start
        self._most = most
        self._resume_at = 0.0
        self._halved_at = 0.0

    @property
    def limit(self) -> int:
        """Number of requests that may run now."""
        return max(1, int(self._limit))

    def pause(self, now: float) -> float:
        """Return the seconds for which no request may be sent."""
        return max(0.0, self._resume_at - now)

    def answered(self) -> None:
        self._limit = min(self._most, self._limit + 1.0 / self._limit)

    def refused(self, began: float, now: float, retry_after_s: float | None) -> None:
        """Halve the limit, once for all requests that ran at the same time."""
        if began >= self._halved_at:
            self._limit = max(1.0, self._limit / 2)
            self._halved_at = now
        if retry_after_s is not None:
            self._resume_at = max(self._resume_at, now + retry_after_s)


class Limiter:
    """A `RequestGate` for the threads of one process, with a `Pace`. Thread-safe.

    A request that raises `UnavailableError` halves the limit,
    once for all requests that ran with it, and stops all requests for as long as the server asked.
    """

    def __init__(self, start: float = 4.0, most: float = 32.0) -> None:
        self._pace = Pace(start, most)
        self._under_way = 0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        return self._pace.limit

    @contextmanager
    def turn(self) -> Iterator[None]:
        began = self._begin()
        try:
            yield
        except UnavailableError as error:
            with self._changed:
                self._pace.refused(began, time.monotonic(), error.retry_after_s)
            raise
        else:
            with self._changed:
                self._pace.answered()
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _begin(self) -> float:
        with self._changed:
            while True:
                now = time.monotonic()
                if pause := self._pace.pause(now):
                    self._changed.wait(pause)
                elif self._under_way >= self.limit:
                    self._changed.wait()
                else:
                    self._under_way += 1
                    return now
