"""Parquet exports, written and read with pyarrow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One column a key; an absent key is null; values of mixed types become JSON texts."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = {key: _column([row.get(key) for row in rows]) for key in keys}
    pq.write_table(pa.table(columns), path)


def write_synthetic(path: Path, first_step: int, steps: int, keys: Sequence[str]) -> None:
    """Many rows of smooth numbers, made column by column so that a million is cheap."""
    step = pa.array(range(first_step, first_step + steps), pa.int64())
    wide = pc.cast(step, pa.float64())
    columns = {
        "_step": step,
        "_timestamp": pc.add(wide, 1.6e9),
        "_runtime": wide,
    }
    for number, key in enumerate(keys, start=1):
        columns[key] = pc.divide(pa.scalar(float(number)), pc.add(wide, 1.0))
    pq.write_table(pa.table(columns), path, compression="snappy")


def read_rows(path: Path, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Some rows of a file, without the keys they do not have."""
    return take(pq.read_table(path), indices)


def read_complete(path: Path, keys: Sequence[str]) -> pa.Table:
    """The rows of a file that have all the keys, and those columns only."""
    if not set(keys) <= set(pq.read_schema(path).names):
        return pa.table({key: [] for key in keys})
    return pq.read_table(path, columns=list(keys)).drop_null()


def take(table: pa.Table, indices: Sequence[int]) -> list[dict[str, Any]]:
    rows = table.take(pa.array(indices, pa.int64())).to_pylist()
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def _column(values: list[Any]) -> pa.Array:
    if all(value is None for value in values):
        return pa.nulls(len(values), pa.float64())
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        array = None
    if array is not None and _writable(array.type):
        return array
    return pa.array([None if value is None else json.dumps(value) for value in values])


def _writable(kind: pa.DataType) -> bool:
    """Parquet has no place for a struct without fields or a list of nothing."""
    if pa.types.is_struct(kind):
        fields = [kind.field(i).type for i in range(kind.num_fields)]
        return bool(fields) and all(map(_writable, fields))
    if pa.types.is_list(kind):
        return _writable(kind.value_type)
    return not pa.types.is_null(kind)
