"""End open runs on SIGTERM.

Kubernetes and torch's elastic agent send SIGTERM and kill the process soon after. The runs that
this process has open are ended as killed first, because no other process of the container is left
to do it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

GRACE_S = 20.0
"""Seconds to end runs; Kubernetes and torch's agent kill the process after 30."""

_end_calls: dict[object, Callable[[], None]] = {}
_previous_handler: Any = None


@contextmanager
def ended_on_sigterm(end: Callable[[], None]) -> Iterator[None]:
    """Call ``end`` in a thread of its own if SIGTERM arrives inside the block."""
    install_handler()
    key = object()
    _end_calls[key] = end
    try:
        yield
    finally:
        del _end_calls[key]


def install_handler() -> None:
    """Install the SIGTERM handler, which Python allows in the main thread only."""
    global _previous_handler
    if threading.current_thread() is not threading.main_thread():
        return
    current = signal.getsignal(signal.SIGTERM)
    if current is not _on_sigterm and current is not None:
        _previous_handler = current
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    # Not in this thread, which may hold a lock that ending a run needs.
    ender = threading.Thread(target=_end_all, daemon=True)
    ender.start()
    ender.join(GRACE_S)
    previous = _previous_handler
    signal.signal(signal.SIGTERM, previous if callable(previous) else signal.SIG_DFL)
    if callable(previous):
        previous(number, frame)
    elif previous != signal.SIG_IGN:
        os.kill(os.getpid(), signal.SIGTERM)


def _end_all() -> None:
    threads = [
        threading.Thread(target=_end, args=(end,), daemon=True) for end in list(_end_calls.values())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GRACE_S)


def _end(end: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):
        end()
