"""Warnings that a process shows once, however often their cause recurs."""

from __future__ import annotations

from collections.abc import Callable

_shown: set[str] = set()


def show_once(message: str, show: Callable[[str], None]) -> None:
    """Pass ``message`` to ``show``, the first time in this process only."""
    if message not in _shown:
        _shown.add(message)
        show(message)
