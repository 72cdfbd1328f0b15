"""Rows in a temporary file: which columns a table has is known after the last row only."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from mlflow_wandb_plugin.core.model import INT64, as_float
from mlflow_wandb_plugin.export.rows import Row


class Spool:
    """Rows, the columns that they have, and the type of each column.

    Attributes:
        columns: "int", "float", "bool" or "text" by column, in the order of appearance; text is
            what has values of several types, too.
    """

    def __init__(self) -> None:
        self.columns: dict[str, str] = {}
        self._file = tempfile.TemporaryFile(prefix="mlflow-wandb-export-")  # noqa: SIM115
        self._offsets = array("q")
        self._keys: list[tuple[bool, Any]] = []

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, row: Row, sort_value: Any = None) -> None:
        """Add a row; see `rows` for ``sort_value``."""
        for column, value in row.items():
            if value is not None:
                kind, known = _kind(value), self.columns.get(column)
                self.columns[column] = kind if known is None else _common(known, kind)
        self._offsets.append(self._file.tell())
        self._keys.append(_sortable(sort_value))
        self._file.write(json.dumps(row, default=str).encode() + b"\n")

    def rows(self, in_order: bool = False, reverse: bool = False) -> Iterator[Row]:
        """Yield the rows as they came, or in the order of their sort values: numbers by size, then
        texts; rows without one come last."""
        numbers: Iterable[int] = range(len(self))
        if in_order:
            some = [number for number in numbers if self._keys[number][1] is not None]
            none = [number for number in numbers if self._keys[number][1] is None]
            key: Callable[[int], Any] = self._keys.__getitem__
            numbers = sorted(some, key=key, reverse=reverse) + none
        for number in numbers:
            self._file.seek(self._offsets[number])
            yield json.loads(self._file.readline())


def chosen_columns(known: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Return the columns of a table: all of ``known``, or those that are ``wanted``, which may have
    ``*``, in this order; a name that no row has makes an empty column."""
    names = list(known)
    columns: list[str] = []
    for pattern in wanted:
        found = [name for name in names if fnmatchcase(name, pattern)]
        columns += [name for name in found or ([pattern] if "*" not in pattern else [])
                    if name not in columns]  # fmt: skip
    return columns or names


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -INT64 <= value < INT64 else "float"
    return "float" if isinstance(value, float) else "text"


def _common(one: str, other: str) -> str:
    if one == other:
        return one
    return "float" if {one, other} == {"int", "float"} else "text"


def _sortable(value: Any) -> tuple[bool, Any]:
    if isinstance(value, (int, float)):
        number = as_float(value)
        return False, None if number != number else number
    return True, None if value is None else str(value)
