"""One limit on the requests to W&B for all processes of a cluster, kept by an actor."""

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

LEASE_S = 180.0
"""A turn that is not given back by then is taken back: its process is gone, or downloads long."""


class PaceKeeper:
    """The actor. Callers wait in it, so that it costs nothing while nobody may send."""

    def __init__(self, start: float = 4.0, most: float = 32.0, lease_s: float = LEASE_S) -> None:
        self._pace = Pace(start, most)
        self._lease_s = lease_s
        self._began: dict[int, float] = {}
        self._numbers = itertools.count()
        self._changed = asyncio.Condition()
        self._given = 0
        self._most_at_once = 0

    async def begin(self) -> int:
        """Wait for a turn; returns its number."""
        async with self._changed:
            while (pause := self._pause()) is not None:
                try:
                    await asyncio.wait_for(self._changed.wait(), pause)
                except asyncio.TimeoutError:
                    continue
            number = next(self._numbers)
            self._began[number] = time.monotonic()
            self._given += 1
            self._most_at_once = max(self._most_at_once, len(self._began))
            return number

    async def end(self, number: int, refused: bool, retry_after_s: float | None) -> None:
        """Give a turn back, and say how the server answered."""
        async with self._changed:
            now = time.monotonic()
            began = self._began.pop(number, now)
            if refused:
                self._pace.refused(began, now, retry_after_s)
            else:
                self._pace.answered()
            self._changed.notify_all()

    async def told(self) -> dict[str, int]:
        """Turns given so far, and the most that were under way at once."""
        return {"given": self._given, "most_at_once": self._most_at_once}

    def _pause(self) -> float | None:
        """How long to wait before looking again; None when it is somebody's turn."""
        now = time.monotonic()
        for number, began in list(self._began.items()):
            if now - began > self._lease_s:
                del self._began[number]
        if pause := self._pace.pause(now):
            return pause
        if len(self._began) < self._pace.limit:
            return None
        return min(self._began.values()) + self._lease_s - now + 0.01


@dataclass(frozen=True, slots=True)
class SharedTurns:
    """A `RequestGate` of one process: asks the actor for each request."""

    keeper: Any

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn; the request is the body."""
        import ray

        number: int = ray.get(self.keeper.begin.remote())
        refused, retry_after_s = False, None
        try:
            yield
        except SourceUnavailableError as error:
            refused, retry_after_s = True, error.retry_after_s
            raise
        finally:
            # Nobody waits for the answer.
            self.keeper.end.remote(number, refused, retry_after_s)
