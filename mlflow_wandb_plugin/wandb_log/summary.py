"""Compute a run's summary from its rows and from what the user set, as wandb-core does."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_wandb_plugin.core.model import Key, flatten, nest, set_leaf

# A null that the user set: W&B shows nothing, and removes values below and above its key.
_NULL = object()


@dataclass(slots=True)
class _Entry:
    latest: Any = None
    first: Any = None
    low: float = math.nan
    high: float = math.nan
    total: float = 0.0
    count: int = 0
    statistics: frozenset[str] = frozenset()
    hidden: bool = False
    has_data: bool = False
    # What W&B shows, if that is not the entry's current value.
    fixed: Any = None
    at: int = 0
    # W&B shows what an earlier log of the run left.
    carried: bool = False

    def value(self) -> Any:
        """Return the latest value, or its statistics if the definition asks for them."""
        if not self.statistics:
            return self.latest
        known = {
            "last": self.latest,
            "first": self.first,
            "max": self.high if self.count else 0.0,
            "min": self.low if self.count else 0.0,
            "mean": self.total / self.count if self.count else math.nan,
        }
        return {name: known[name] for name in known if name in self.statistics}

    def shown(self) -> Any:
        """Return what W&B shows; None if it shows nothing."""
        if self.fixed is not None:
            return self.fixed
        return self.value() if self.has_data and not self.hidden else None

    def log(self, latest: Any, at: int) -> None:
        """Set the latest logged value, which W&B shows unless it is hidden."""
        self.latest, self.has_data = latest, True
        if not self.hidden:
            self.fixed, self.at, self.carried = None, at, False


class SummaryFold:
    """The summary of one run.

    The values of each key are added in the order of the log. ``at`` is the logical time of a value,
    which orders different keys: a key may hold a number in one row and a tree in the next.
    """

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}
        self._carried: dict[Key, Any] = {}

    def configure(self, path: Key, hidden: bool, statistics: frozenset[str]) -> None:
        """Apply ``define_metric(summary=…)``, which changes what the key's next values show."""
        entry = self._at(path)
        entry.fixed = entry.shown()
        entry.hidden, entry.statistics = hidden, statistics

    def numbers(self, path: Key, values: Sequence[float], at: int = 0) -> None:
        """Add the next logged numbers of one key (not empty)."""
        entry = self._at(path)
        if not entry.has_data or entry.first is None:
            entry.first = values[0]
        entry.log(values[-1], at)
        # Left to right, one addition a value: the mean must equal that of core's running total.
        entry.total = functools.reduce(operator.add, values, entry.total)
        nan = math.isnan(entry.total) and any(value != value for value in values)
        low, high = (math.nan, math.nan) if nan else (min(values), max(values))
        if entry.count:
            # Go's min and max give NaN as soon as one side is NaN.
            low = math.nan if nan or entry.low != entry.low else min(entry.low, low)
            high = math.nan if nan or entry.high != entry.high else max(entry.high, high)
        entry.low, entry.high = low, high
        entry.count += len(values)

    def other(self, path: Key, value: Any, at: int = 0) -> None:
        """Add a logged value that is no number."""
        entry = self._at(path)
        if not entry.has_data or entry.first is None:
            entry.first = value
        entry.log(value, at)

    def null(self, path: Key, at: int = 0) -> None:
        """Add a logged null: it changes no value, but W&B then shows statistics without data."""
        entry = self._entries.get(path)
        if entry is not None and entry.statistics and not entry.has_data:
            entry.log(None, at)

    def set(self, path: Key, value: Any, at: int = 0) -> None:
        """Set ``run.summary[…]``, shown even if hidden, until the key is logged again."""
        entry = self._entries[path] = self._entries.pop(path, _Entry())
        entry.latest, entry.statistics, entry.has_data = value, frozenset(), True
        entry.fixed, entry.at = _NULL if value is None else value, at
        entry.carried = False

    def carry(self, path: Key, value: Any, at: int = 0) -> None:
        """Set what an earlier log of the run left in the summary."""
        self.set(path, value, at)
        self._entries[path].carried = True
        self._carried.update(flatten({path[-1]: value}, path[:-1]))

    def carried(self, logged: Container[Key]) -> dict[Key, Any]:
        """Return the leaves of `carry`, less those of ``logged`` that W&B no longer shows."""
        return {
            path: value
            for path, value in self._carried.items()
            if path not in logged or self._at(path).carried
        }

    def remove(self, path: Key) -> None:
        """Delete a summary key, and all keys nested below it."""
        entry = self._entries.get(path)
        if entry is not None:
            entry.latest, entry.has_data, entry.fixed = None, False, None
        for other in [other for other in self._entries if other[: len(path)] == path != other]:
            del self._entries[other]

    def tree(self) -> Mapping[str, Any]:
        """Return the summary, nested, without W&B's internal keys."""
        shown = {
            path: entry.shown()
            for path, entry in sorted(self._entries.items(), key=lambda item: item[1].at)
            if entry.shown() is not None and path[0] not in INTERNAL_KEYS
        }
        above = {path[:depth] for path in shown for depth in range(1, len(path))}
        leaves: dict[Key, Any] = {}
        if not above.isdisjoint(shown):
            for path, value in shown.items():
                set_leaf(leaves, path, value)
        known = leaves or shown
        return nest({path: value for path, value in known.items() if value is not _NULL})

    def _at(self, path: Key) -> _Entry:
        entry = self._entries.get(path)
        if entry is None:
            entry = self._entries[path] = _Entry()
        return entry


INTERNAL_KEYS = frozenset({"_wandb", "_step", "_runtime", "_timestamp"})
