"""A run's summary, folded from its rows and from what the user set, as wandb-core does it."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_wandb_plugin.core.model import Key, nest, set_leaf

# A null that the user set: it shows nothing, and replaces what stood below or above its key.
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
    # What W&B was last told, where that is not what the entry's value would be now.
    told: Any = None
    at: int = 0

    def value(self) -> Any:
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
        """What W&B shows; None when it shows nothing."""
        if self.told is not None:
            return self.told
        return self.value() if self.has_data and not self.hidden else None

    def take(self, latest: Any, at: int) -> None:
        """Something was logged: its value is told, unless it is hidden."""
        self.latest, self.has_data = latest, True
        if not self.hidden:
            self.told, self.at = None, at


class SummaryFold:
    """The summary of one run. Feed it in log order, each key by itself; ``at`` orders keys among
    each other, for a key may hold a number in one row and a tree in the next."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}

    def configure(self, path: Key, hidden: bool, statistics: frozenset[str]) -> None:
        """Apply ``define_metric(summary=…)``: it shows when the key is logged again."""
        entry = self._at(path)
        entry.told = entry.shown()
        entry.hidden, entry.statistics = hidden, statistics

    def numbers(self, path: Key, values: Sequence[float], at: int = 0) -> None:
        """Fold in the next logged numbers of one key (not empty)."""
        entry = self._at(path)
        if not entry.has_data or entry.first is None:
            entry.first = values[0]
        entry.take(values[-1], at)
        # Left to right, one addition a value: mean must come out as core's running total does.
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
        """Fold in a logged value that is no number."""
        entry = self._at(path)
        if not entry.has_data or entry.first is None:
            entry.first = value
        entry.take(value, at)

    def null(self, path: Key, at: int = 0) -> None:
        """Fold in a logged null: it changes no value, but W&B then shows statistics of nothing."""
        entry = self._entries.get(path)
        if entry is not None and entry.statistics and not entry.has_data:
            entry.take(None, at)

    def set(self, path: Key, value: Any, at: int = 0) -> None:
        """The user set ``run.summary[…]``: it stands until the key is logged again. W&B is told of
        it also where a definition hides what is logged."""
        entry = self._entries[path] = self._entries.pop(path, _Entry())
        entry.latest, entry.statistics, entry.has_data = value, frozenset(), True
        entry.told, entry.at = _NULL if value is None else value, at

    def remove(self, path: Key) -> None:
        """The user deleted a summary key, with all that is nested below it."""
        entry = self._entries.get(path)
        if entry is not None:
            entry.latest, entry.has_data, entry.told = None, False, None
        for other in [other for other in self._entries if other[: len(path)] == path != other]:
            del self._entries[other]

    def tree(self) -> Mapping[str, Any]:
        """The summary, nested, without W&B's internal keys."""
        shown = {
            path: entry.shown()
            for path, entry in sorted(self._entries.items(), key=_time)
            if entry.shown() is not None and path[0] not in INTERNAL_KEYS
        }
        above = {path[:depth] for path in shown for depth in range(1, len(path))}
        leaves: dict[Key, Any] = {}
        if above.isdisjoint(shown):
            leaves = shown
        else:
            for path, value in shown.items():
                set_leaf(leaves, path, value)
        return nest({path: value for path, value in leaves.items() if value is not _NULL})

    def _at(self, path: Key) -> _Entry:
        entry = self._entries.get(path)
        if entry is None:
            entry = self._entries[path] = _Entry()
        return entry


def _time(item: tuple[Key, _Entry]) -> int:
    return item[1].at


INTERNAL_KEYS = frozenset({"_wandb", "_step", "_runtime", "_timestamp"})
