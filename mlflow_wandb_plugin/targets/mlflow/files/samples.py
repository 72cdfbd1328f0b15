"""A bounded number of many items."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Samples(Generic[T]):
    """Some of the items that are added, evenly spread: each second one goes when they are many.

    Args:
        most: items that are kept, an even number; the latest one may be one more.

    Attributes:
        number: how many items were added.
    """

    def __init__(self, most: int) -> None:
        self.number = 0
        self._most = most
        self._every = 1
        self._kept: list[T] = []
        self._latest: list[T] = []

    def add(self, item: T) -> None:
        """Add an item, which is the latest one now."""
        is_kept = self.number % self._every == 0
        if is_kept:
            self._kept.append(item)
        self._latest = [] if is_kept else [item]
        if len(self._kept) > self._most:
            self._kept, self._every = self._kept[::2], self._every * 2
        self.number += 1

    def all(self) -> list[T]:
        """The kept items in their order, and the latest one."""
        return self._kept + self._latest
