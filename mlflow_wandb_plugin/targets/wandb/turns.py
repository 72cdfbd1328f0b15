"""Let threads do one part of their work in the order in which they began."""

from __future__ import annotations

import threading
from collections.abc import Hashable


class Turns:
    """Turns of what is named by keys. A turn waits for earlier ones to end. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[Hashable, None] = {}

    def begin(self, key: Hashable) -> None:
        """Begin a turn, behind all that were begun before."""
        with self._changed:
            self._open[key] = None

    def wait(self, key: Hashable) -> None:
        """Wait until all turns before that of ``key`` have ended; not at all if it has none."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._open or next(iter(self._open)) == key)

    def end(self, key: Hashable) -> None:
        """End a turn; may be repeated."""
        with self._changed:
            self._open.pop(key, None)
            self._changed.notify_all()
