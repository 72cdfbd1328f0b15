"""SIGTERM: Kubernetes and torch's elastic agent send it and kill soon after. The runs that this
process has open are ended as killed first: in a container nobody is left to do it later."""

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
"""Time for ending runs; Kubernetes kills after 30 s, torch's agent as well."""

_open: dict[object, Callable[[], None]] = {}
_before: Any = None


@contextmanager
def ended_if_killed(end: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGTERM calls ``end`` in a thread of its own before it takes its course."""
    watch()
    key = object()
    _open[key] = end
    try:
        yield
    finally:
        del _open[key]


def watch() -> None:
    """Install the handler; only a process's main thread can."""
    global _before
    if threading.current_thread() is not threading.main_thread():
        return
    current = signal.getsignal(signal.SIGTERM)
    if current is not _on_sigterm and current is not None:
        _before = current
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    # Not in this thread: it may hold the very lock that ending a run needs.
    ender = threading.Thread(target=_end_all, daemon=True)
    ender.start()
    ender.join(GRACE_S)
    signal.signal(signal.SIGTERM, _before if callable(_before) else signal.SIG_DFL)
    if callable(_before):
        _before(number, frame)
    elif _before != signal.SIG_IGN:
        os.kill(os.getpid(), signal.SIGTERM)


def _end_all() -> None:
    enders = [threading.Thread(target=_end, args=(end,), daemon=True) for end in [*_open.values()]]
    for ender in enders:
        ender.start()
    for ender in enders:
        ender.join(GRACE_S)


def _end(end: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):
        end()
