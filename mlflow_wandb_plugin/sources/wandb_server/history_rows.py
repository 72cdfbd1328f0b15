"""Convert history rows of a W&B server to series and row objects, in bounded blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow_wandb_plugin.core.model import Item, Key, RowObjects, Series, as_float, flatten, nest
from mlflow_wandb_plugin.wandb_log.summary import INTERNAL_KEYS

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class RunKeys:
    """The history keys of a run: their types, and their paths in the model.

    The server sends a key as one dotted name. If the summary nests it, its path is nested (as in a
    local log of the same run); else the name is one label.

    Args:
        history_keys: the server's ``historyKeys``.
        summary: the run's summary, nested.
    """

    def __init__(self, history_keys: Any, summary: Mapping[str, Any]) -> None:
        self.types: dict[str, dict[str, int]] = {}
        self._nested: dict[str, Key] = {}
        self._paths: dict[str, Key] = {}
        self.update(history_keys, summary)

    def update(self, history_keys: Any, summary: Mapping[str, Any]) -> None:
        """Add what the server says now. Paths that `path` has returned stay."""
        listed = history_keys.get("keys") if isinstance(history_keys, Mapping) else None
        self.types.update(
            {str(name): _type_counts(entry) for name, entry in (listed or {}).items()}
        )
        for path in flatten(summary):
            for length in range(2, len(path) + 1):
                self._nested[".".join(path[:length])] = path[:length]
        self._nested.update({name: (name,) for name in summary})

    def path(self, name: str, nested: Key = ()) -> Key:
        """Return the path of a key.

        Args:
            nested: the path that a row gives the key, for one that the summary does not have:
                W&B's summary has no null.
        """
        found = self._paths.get(name)
        if found is None:
            found = self._paths[name] = self._nested.get(name, nested or (name,))
        return found

    def is_number(self, name: str) -> bool:
        """Whether the key has numbers and no text, so that its text ``NaN`` is a number."""
        types = self.types.get(name, {})
        return bool(types) and "string" not in types and ("number" in types or "boolean" in types)

    def is_text(self, name: str) -> bool:
        """Whether all values are text, which exports contain as it is and not as JSON."""
        return self.types.get(name, {}).keys() <= {"string", "nil"}

    def logged(self, path: Key) -> bool:
        """Whether history has the key, or a key above it."""
        return any(".".join(path[:n]) in self.types for n in range(1, len(path) + 1))

    @property
    def points(self) -> int:
        """Number of points of the whole history."""
        return sum(self.point_counts.values())

    @property
    def point_counts(self) -> dict[Key, int]:
        """Number of points by key."""
        return {
            self.path(name): types.get("number", 0) + types.get("boolean", 0)
            for name, types in self.types.items()
            if name not in INTERNAL_KEYS
        }

    @property
    def width(self) -> int:
        """Number of keys, at least 1."""
        return max(1, len(self.types.keys() - INTERNAL_KEYS))


def _type_counts(entry: Any) -> dict[str, int]:
    counts = entry.get("typeCounts") if isinstance(entry, Mapping) else None
    return {str(one.get("type")): int(one.get("count") or 0) for one in counts or ()}


class LastValues:
    """The latest number of each key and the latest row, added in any order."""

    def __init__(self) -> None:
        self.step: int | None = None
        self.ms: int | None = None
        self._values: dict[Key, tuple[int, float]] = {}

    def add_row(self, step: int, timestamp_ms: int) -> None:
        """Add a row's step and time."""
        if self.step is None or step >= self.step:
            self.step, self.ms = step, timestamp_ms

    def add_number(self, path: Key, step: int, value: float) -> None:
        """Add a number of a key."""
        known = self._values.get(path)
        if known is None or step >= known[0]:
            self._values[path] = (step, value)

    def __contains__(self, path: Key) -> bool:
        return path in self._values

    @property
    def values(self) -> dict[Key, float]:
        """The latest number of each key."""
        return {path: value for path, (_, value) in self._values.items()}


class Block:
    """Collects rows, in order of their steps, and returns them as `items`."""

    def __init__(self, keys: RunKeys, last: LastValues) -> None:
        self._keys = keys
        self._last = last
        self.steps: list[int] = []
        self.times_ms: list[int] = []
        self._numbers: dict[str, tuple[list[int], list[float]]] = {}
        self._objects: dict[int, dict[Key, Any]] = {}

    def add_rows(self, steps: Sequence[int], times_ms: Sequence[int]) -> None:
        """Append rows without values; values are added by row number."""
        self.steps += steps
        self.times_ms += times_ms
        if steps:
            self._last.add_row(steps[-1], times_ms[-1])

    def add_numbers(self, name: str, rows: list[int], values: list[float]) -> None:
        """Add numbers of one key, at ascending row numbers."""
        column = self._numbers.get(name)
        if column is None:
            self._numbers[name] = (rows, values)
        else:
            column[0].extend(rows)
            column[1].extend(values)
        if rows:
            self._last.add_number(self._keys.path(name), self.steps[rows[-1]], values[-1])

    def add(self, row: int, name: str, value: Any, nested: Key = ()) -> None:
        """Add one value; nested values are flattened, except W&B's typed values.

        Args:
            nested: the path of ``name`` in the row, if it is below another key.
        """
        number = self._number(name, value)
        path = self._keys.path(name, nested)
        if number is not None:
            self.add_numbers(name, [row], [number])
        elif isinstance(value, Mapping) and value and "_type" not in value:
            for label, below in value.items():
                self.add(row, f"{name}.{label}", below, (*path, label))
        else:
            self._objects.setdefault(row, {})[path] = value

    def _number(self, name: str, value: Any) -> float | None:
        if isinstance(value, (int, float)):
            return as_float(value)
        if isinstance(value, str) and value in _NON_FINITE and self._keys.is_number(name):
            return _NON_FINITE[value]
        return None

    def items(self) -> Iterator[Item]:
        """Yield series in the order of their first row, then by key, as `Columns.series` does for a
        local log: the first of two keys with one name in MLflow gets it. Then yield row objects.
        Keys that every row has share steps and times."""
        steps, times = self.steps, self.times_ms
        columns = [(self._keys.path(name), *column) for name, column in self._numbers.items()]
        for path, rows, values in sorted(columns, key=lambda column: (column[1][:1], column[0])):
            if len(rows) == len(steps):
                yield Series(path, steps, times, values)
            else:
                yield Series(path, [steps[i] for i in rows], [times[i] for i in rows], values)
        for row in sorted(self._objects):
            objects = dict(sorted(self._objects[row].items()))
            yield RowObjects(steps[row], times[row], objects)


def with_numbers(summary: Mapping[str, Any], last: LastValues) -> Mapping[str, Any]:
    """Return ``summary`` with floats for numbers that JSON cannot express.

    Integers beyond the range of floats become infinite. NaN and infinities, which the server sends
    as text, become floats at keys that have numbers in history.
    """

    def number(path: Key, value: Any) -> Any:
        if isinstance(value, str) and path in last:
            return _NON_FINITE.get(value, value)
        if isinstance(value, int) and math.isinf(as_float(value)):
            return as_float(value)
        return value

    return nest({path: number(path, value) for path, value in flatten(summary).items()})


def row_time_ms(row: Mapping[str, Any], started_ms: int) -> int:
    """Return the Unix ms at which a row was logged.

    Without ``_timestamp`` it follows from the row alone, so that reading it again gives the same
    point.
    """
    timestamp, runtime = row.get("_timestamp"), row.get("_runtime")
    if isinstance(timestamp, (int, float)) and math.isfinite(timestamp):
        return int(timestamp * 1000)
    if isinstance(runtime, (int, float)) and math.isfinite(runtime):
        return started_ms + int(runtime * 1000)
    return started_ms
