"""Collect the numbers of a block of history rows by key, with few Python objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mlflow_wandb_plugin.core.model import Key, Series
from mlflow_wandb_plugin.wandb_log.plain_rows import PlainBlock


class Columns:
    """Rows of one block: each row's step and time, and one column of numbers a key."""

    def __init__(self) -> None:
        self.points = 0
        self.steps: list[int] = []
        self.times_ms: list[int] = []
        self._columns: defaultdict[Key, tuple[list[int], list[float]]]
        self._columns = defaultdict(lambda: ([], []))

    def start_row(self, step: int, timestamp_ms: int) -> None:
        """Start a row, to which `add` adds numbers."""
        self._row = len(self.steps)
        self.steps.append(step)
        self.times_ms.append(timestamp_ms)

    def add(self, path: Key, value: float) -> None:
        """Add a number to the current row."""
        rows, values = self._columns[path]
        rows.append(self._row)
        values.append(value)
        self.points += 1

    def add_block(self, block: PlainBlock) -> None:
        """Add many rows at once."""
        first = len(self.steps)
        self.steps += block.steps
        self.times_ms += block.times_ms
        every = list(range(first, len(self.steps)))
        for path, rows, values in block.columns:
            column = self._columns[path]
            column[0].extend(every if rows is None else [first + row for row in rows])
            column[1].extend(values)
            self.points += len(values)

    def values(self, path: Key) -> list[float]:
        """Return all numbers of one key so far, as a list that the caller must not change."""
        column = self._columns.get(path)
        return [] if column is None else column[1]

    def last_row(self, path: Key) -> int:
        """Return the index of the last row that has ``path``."""
        return self._columns[path][0][-1]

    def paths(self) -> Iterator[Key]:
        """Yield the keys of all columns."""
        yield from self._columns

    def series(self, keep_points: bool = True) -> Iterator[Series]:
        """Yield the block as series, in the order of their first row, then by key.

        wandb-core and the SDK order the keys of a row differently, and the first of two keys with
        the same MLflow name gets it. Keys that every row has share their steps and times.

        Args:
            keep_points: False yields series without points.
        """
        steps, times = self.steps, self.times_ms
        columns = sorted(self._columns.items(), key=lambda item: (item[1][0][0], item[0]))
        for path, (rows, values) in columns:
            if not keep_points:
                yield Series(path, (), (), ())
            elif len(rows) == len(steps):
                yield Series(path, steps, times, values)
            else:
                yield Series(path, [steps[i] for i in rows], [times[i] for i in rows], values)


def milliseconds(timestamp: str | bytes | None) -> int | None:
    """Convert a row's time in seconds to Unix ms; None if MLflow cannot hold it as a time."""
    try:
        at = int(float(timestamp) * 1000) if timestamp is not None else -1
    except (ValueError, OverflowError):
        return None
    return at if 0 <= at < 2**63 else None
