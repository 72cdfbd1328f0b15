"""One limit on the requests to a server, shared by all workers, that follows its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_wandb_plugin.errors import SourceUnavailableError, TargetUnavailableError


class Limiter:
    """How many requests may be under way at once: more while answers come, half after a refusal.

    A request that raises `SourceUnavailableError` or `TargetUnavailableError` halves the limit,
    once for all the requests that were under way with it, and holds everybody up for as long as
    the server asked. Thread-safe.

    Args:
        start, most: requests at once, at first and at most.
    """

    def __init__(self, start: float = 4.0, most: float = 32.0) -> None:
        self._limit = start
        self._most = most
        self._under_way = 0
        self._resume_at = 0.0
        self._halved_at = 0.0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return max(1, int(self._limit))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn; the request is the body."""
        began = self._begin()
        try:
            yield
        except (SourceUnavailableError, TargetUnavailableError) as error:
            self._refused(began, error.retry_after_s)
            raise
        else:
            with self._changed:
                self._limit = min(self._most, self._limit + 1.0 / self._limit)
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _begin(self) -> float:
        with self._changed:
            while True:
                now = time.monotonic()
                if now < self._resume_at:
                    self._changed.wait(self._resume_at - now)
                elif self._under_way >= self.limit:
                    self._changed.wait()
                else:
                    self._under_way += 1
                    return now

    def _refused(self, began: float, retry_after_s: float | None) -> None:
        with self._changed:
            now = time.monotonic()
            if began >= self._halved_at:
                self._limit = max(1.0, self._limit / 2)
                self._halved_at = now
            if retry_after_s is not None:
                self._resume_at = max(self._resume_at, now + retry_after_s)
