"""One limit on the requests to a server, shared by all workers, that follows its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from mlflow_wandb_plugin.errors import SourceUnavailableError, TargetUnavailableError


class RequestGate(Protocol):
    """Who says when a request may be sent."""

    def turn(self) -> AbstractContextManager[None]:
        """Wait for a turn; the request is the body."""


class Pace:
    """How many requests may be under way at once: more while answers come, half after a refusal.

    The arithmetic alone, for whoever waits and counts. Times are seconds of one clock.

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
        """Requests that may be under way now."""
        return max(1, int(self._limit))

    def pause(self, now: float) -> float:
        """Seconds for which nothing may be sent."""
        return max(0.0, self._resume_at - now)

    def answered(self) -> None:
        self._limit = min(self._most, self._limit + 1.0 / self._limit)

    def refused(self, began: float, now: float, retry_after_s: float | None) -> None:
        """Halve the limit, once for all the requests that were under way together."""
        if began >= self._halved_at:
            self._limit = max(1.0, self._limit / 2)
            self._halved_at = now
        if retry_after_s is not None:
            self._resume_at = max(self._resume_at, now + retry_after_s)


class Limiter:
    """The limit of one process, shared by its threads.

    A request that raises `SourceUnavailableError` or `TargetUnavailableError` halves the limit,
    once for all the requests that were under way with it, and holds everybody up for as long as
    the server asked. Thread-safe.

    Args:
        start, most: requests at once, at first and at most.
    """

    def __init__(self, start: float = 4.0, most: float = 32.0) -> None:
        self._pace = Pace(start, most)
        self._under_way = 0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return self._pace.limit

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn; the request is the body."""
        began = self._begin()
        try:
            yield
        except (SourceUnavailableError, TargetUnavailableError) as error:
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
