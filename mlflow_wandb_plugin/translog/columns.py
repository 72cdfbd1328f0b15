"""The numbers of a block of history rows, in columns, with the fewest Python objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from mlflow_wandb_plugin.model import Key, Series

_ITEM = re.compile(rb"(?s)\x0a.(\x12[^\x82]+)\x82\x01.([-+0-9.eENaIinfty]+)(?=[\x0a\x12]|\Z)")
_ITEM_OVERHEAD = 5
"""Bytes of an item beside what is captured: the item's tag and length, the value's tag (two
bytes) and length."""
_STEP, _TIMESTAMP = b"\x12\x05_step", b"\x12\x0a_timestamp"


class Columns:
    """Rows of one block. Every row has a step and a time; its numbers stand in columns."""

    def __init__(self) -> None:
        self.points = 0
        self.steps: list[int] = []
        self.times_ms: list[int] = []
        self._columns: dict[Key, tuple[list[int], list[float]]] = {}

    def open_row(self, step: int, timestamp_ms: int) -> None:
        """Start a row; `add` then belongs to it."""
        self._row = len(self.steps)
        self.steps.append(step)
        self.times_ms.append(timestamp_ms)

    def add(self, path: Key, value: float) -> None:
        """Add a number to the row."""
        column = self._columns.get(path)
        if column is None:
            column = self._columns[path] = ([], [])
        column[0].append(self._row)
        column[1].append(value)
        self.points += 1

    def add_rows(self, steps: list[int], times_ms: list[int], numbers: dict[Key, Any]) -> None:
        """Add whole rows at once: ``numbers`` holds a list of floats a key, as long as the rest."""
        first = len(self.steps)
        self.steps += steps
        self.times_ms += times_ms
        rows = range(first, len(self.steps))
        for path, values in numbers.items():
            column = self._columns.get(path)
            if column is None:
                column = self._columns[path] = ([], [])
            column[0].extend(rows)
            column[1].extend(values)
            self.points += len(rows)

    def values(self, path: Key) -> list[float]:
        """All numbers of one key so far; the caller must not change them."""
        column = self._columns.get(path)
        return [] if column is None else column[1]

    def last_row(self, path: Key) -> int:
        """The index of the last row that has ``path``."""
        return self._columns[path][0][-1]

    def paths(self) -> Iterator[Key]:
        yield from self._columns

    def series(self, keep_points: bool = True) -> Iterator[Series]:
        """The block as series, in the order of their first row, then by key: wandb-core and the
        SDK order a row's keys differently, and the first of two clashing keys takes the name.

        Keys that every row has share their steps and times. ``keep_points=False`` gives the keys
        alone.
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


class _Schema(NamedTuple):
    """Rows that have the same keys, as they lie in the bytes."""

    size: int
    pick: Callable[[dict[bytes, bytes]], tuple[bytes, ...]]
    step_at: int
    timestamp_at: int
    paths: tuple[tuple[int, Key], ...]


class PlainRows:
    """Collects serialized history rows that hold nothing but numbers, without parsing protobuf.

    wandb-core writes a row's items in any order. One regular expression takes the items of a row
    apart; that they cover the row's bytes to the last one proves that nothing was missed. Any row
    that does not fit (text, media, typed values, very long keys) is for the general way.
    """

    def __init__(self, on_schema: Callable[[Key], None]) -> None:
        self._on_schema = on_schema
        self._schema: _Schema | None = None
        self._rows: list[tuple[bytes, ...]] = []

    def add(self, payload: bytes) -> bool:
        """Take a serialized record that holds history; False if it is not plain, or if
        `flush_needed` rows with other keys are waiting (then flush and call again)."""
        start = _history_start(payload)
        if start < 0:
            return False
        pairs = _ITEM.findall(payload, start)
        covered = sum(map(len, map(b"".join, pairs))) + _ITEM_OVERHEAD * len(pairs)
        rest = len(payload) - start - covered
        if rest and (rest < 2 or payload[-rest] != 0x12 or payload[1 - rest] != rest - 2):
            return False
        row = dict(pairs)
        schema = self._schema
        if schema is not None and len(row) == schema.size == len(pairs):
            try:
                self._rows.append(schema.pick(row))
                return True
            except KeyError:
                pass
        if self._rows or len(row) != len(pairs):
            return False
        self._schema = schema = self._new_schema(row)
        if schema is None:
            return False
        self._rows.append(schema.pick(row))
        return True

    @property
    def waiting(self) -> int:
        """Rows taken and not yet flushed."""
        return len(self._rows)

    @property
    def points(self) -> int:
        return 0 if self._schema is None else len(self._rows) * len(self._schema.paths)

    def flush(self, columns: Columns, time_before: int) -> None:
        """Move the rows into ``columns``; one without a time gets that of the row before."""
        rows, schema = self._rows, self._schema
        if not rows or schema is None:
            return
        self._rows = []
        texts = list(zip(*rows, strict=True))
        steps = list(map(int, texts[schema.step_at]))
        times_ms = []
        for text in texts[schema.timestamp_at]:
            at = milliseconds(text)
            time_before = time_before if at is None else at
            times_ms.append(time_before)
        numbers = {path: list(map(float, texts[at])) for at, path in schema.paths}
        columns.add_rows(steps, times_ms, numbers)

    def forget_schema(self) -> None:
        """Definitions of metrics have changed: look at the keys anew."""
        self._schema = None

    def _new_schema(self, row: dict[bytes, bytes]) -> _Schema | None:
        keys = list(row)
        if len(keys) < 2 or _STEP not in row or _TIMESTAMP not in row:
            return None
        paths = [_path(key) for key in keys]
        known = [path for path in paths if path is not None]
        if len(known) != len(keys):
            return None
        for path in known:
            self._on_schema(path)
        kept = tuple(
            (at, path)
            for at, path in enumerate(known)
            if path not in (("_step",), ("_timestamp",), ("_runtime",))
        )
        pick: Any = itemgetter(*keys)
        return _Schema(len(keys), pick, keys.index(_STEP), keys.index(_TIMESTAMP), kept)


def _history_start(payload: bytes) -> int:
    """Where the history message begins in a record of num and history alone, else -1."""
    at = 0
    if payload[:1] == b"\x08":
        at = 2
        while payload[at - 1] & 0x80:
            at += 1
    if payload[at : at + 1] != b"\x12":
        return -1
    size, shift, at = 0, 0, at + 1
    while True:
        byte = payload[at]
        size |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return at if at + size == len(payload) else -1


def _path(raw: bytes) -> Key | None:
    """The labels in a sequence of (tag, length, label); None if it is anything else."""
    labels: list[str] = []
    at = 0
    while at < len(raw):
        if raw[at] != 0x12 or at + 1 >= len(raw) or raw[at + 1] > 0x7F:
            return None
        end = at + 2 + raw[at + 1]
        if end > len(raw):
            return None
        try:
            labels.append(raw[at + 2 : end].decode())
        except UnicodeDecodeError:
            return None
        at = end
    return tuple(labels)


def milliseconds(timestamp: str | bytes | None) -> int | None:
    """Unix ms of a row's time in seconds; None where it is no time that MLflow can hold."""
    try:
        at = int(float(timestamp) * 1000) if timestamp is not None else -1
    except (ValueError, OverflowError):
        return None
    return at if 0 <= at < 2**63 else None
