"""One limit on the requests to W&B for all processes of a Ray cluster, in an actor."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlflow_wandb_plugin.core.limiter import Pace
from mlflow_wandb_plugin.errors import SourceUnavailableError

MAX_REQUEST_S = 180.0
"""A request that takes longer no longer counts: its process has died, or it is a long download."""


class RequestGateActor:
    """The actor that decides when a process may send a request; waiting callers cost no polling.

    Args:
        start, most: requests at once, at first and at most.
        max_request_s: seconds after which a request no longer counts.
    """

    def __init__(
        self, start: float = 4.0, most: float = 32.0, max_request_s: float = MAX_REQUEST_S
    ) -> None:
        self._pace = Pace(start, most)
        self._max_request_s = max_request_s
        self._began: dict[int, float] = {}
        self._numbers = itertools.count()
        self._changed = asyncio.Condition()

    async def begin(self) -> int:
        """Wait until a request may be sent; returns its number for `end`."""
        async with self._changed:
            while (pause := self._pause()) is not None:
                try:
                    await asyncio.wait_for(self._changed.wait(), pause)
                except asyncio.TimeoutError:
                    continue
            number = next(self._numbers)
            self._began[number] = time.monotonic()
            return number

    async def end(self, number: int, refused: bool, retry_after_s: float | None) -> None:
        """Report how a request has ended; ``retry_after_s`` is from the Retry-After header."""
        async with self._changed:
            now = time.monotonic()
            began = self._began.pop(number, now)
            if refused:
                self._pace.refused(began, now, retry_after_s)
            else:
                self._pace.answered()
            self._changed.notify_all()

    def _pause(self) -> float | None:
        """Seconds to wait before asking again; None if a request may be sent now."""
        now = time.monotonic()
        for number, began in list(self._began.items()):
            if now - began > self._max_request_s:
                del self._began[number]
        if pause := self._pace.pause(now):
            return pause
        if len(self._began) < self._pace.limit:
            return None
        return min(self._began.values()) + self._max_request_s - now + 0.01


@dataclass(frozen=True, slots=True)
class SharedTurns:
    """A `RequestGate` of one process that asks the actor ``keeper`` before each request."""

    keeper: Any

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until a request may be sent; the block sends it."""
        import ray

        number: int = ray.get(self.keeper.begin.remote())
        refused, retry_after_s = False, None
        try:
            yield
        except SourceUnavailableError as error:
            refused, retry_after_s = True, error.retry_after_s
            raise
        finally:
            # Do not wait for the answer.
            self.keeper.end.remote(number, refused, retry_after_s)
