"""Wait for the runs that are being carried, so that Ctrl-C ends the wait."""

from __future__ import annotations

from collections.abc import Collection
from concurrent import futures
from typing import Any, TypeVar

T = TypeVar("T")

WAKE_S = 0.5
"""Seconds after which the wait is begun again. Python handles a signal between two instructions of
the main thread; one that comes when a wait has left Python and does not sleep yet, or that another
thread receives, is handled after the wait."""


def wait_for_any(waiting: Collection[futures.Future[T]]) -> set[futures.Future[T]]:
    """Wait until one future or more are done.

    Args:
        waiting: one future at least.

    Returns:
        Those that are done.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, `WAKE_S` seconds ago at most.
    """
    done: set[Any] = set()
    while not done:
        done, _ = futures.wait(waiting, WAKE_S, futures.FIRST_COMPLETED)
    return done
