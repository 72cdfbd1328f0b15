"""Write a table as CSV, JSON lines or Parquet, row by row."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core.atomic_files import replaced
from mlflow_wandb_plugin.core.model import as_float
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.export.rows import Row

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".csv", ".parquet", ".jsonl")
ROWS_A_BATCH = 10_000


def write_table(
    path: Path, rows: Iterable[Row], columns: Sequence[str], kinds: Mapping[str, str]
) -> None:
    """Write ``rows`` with these columns; ``path`` is replaced when all of them are written."""
    with replaced(path, path.with_name(f".{path.name}.part")) as part:
        if path.suffix == ".csv":
            _write_csv(part, rows, columns)
        elif path.suffix == ".jsonl":
            _write_jsonl(part, rows, columns)
        else:
            _write_parquet(part, rows, columns, kinds)


def arrow_table(
    rows: Iterable[Row], columns: Sequence[str], kinds: Mapping[str, str]
) -> pyarrow.Table:
    """Return ``rows`` as an Arrow table.

    Raises:
        UsageError: pyarrow is missing.
    """
    schema = _schema(columns, kinds)
    return _pyarrow().Table.from_batches(_batches(rows, columns, kinds), schema)


def _write_csv(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row.get(column)) for column in columns])


def _write_jsonl(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            known = {column: row[column] for column in columns if column in row}
            file.write(json.dumps(_strict(known), ensure_ascii=False, allow_nan=False) + "\n")


def _write_parquet(
    path: Path, rows: Iterable[Row], columns: Sequence[str], kinds: Mapping[str, str]
) -> None:
    from pyarrow import parquet

    with parquet.ParquetWriter(path, _schema(columns, kinds)) as writer:
        for batch in _batches(rows, columns, kinds):
            writer.write_batch(batch)


def _batches(
    rows: Iterable[Row], columns: Sequence[str], kinds: Mapping[str, str]
) -> Iterator[pyarrow.RecordBatch]:
    schema, remaining = _schema(columns, kinds), iter(rows)
    while some := list(itertools.islice(remaining, ROWS_A_BATCH)):
        values = [[_typed(row.get(c), kinds.get(c, "text")) for row in some] for c in columns]
        arrays = [
            _pyarrow().array(column, field.type)
            for column, field in zip(values, schema, strict=True)
        ]
        yield _pyarrow().RecordBatch.from_arrays(arrays, schema=schema)


def _schema(columns: Sequence[str], kinds: Mapping[str, str]) -> pyarrow.Schema:
    arrow = _pyarrow()
    types = {
        "int": arrow.int64(), "float": arrow.float64(), "bool": arrow.bool_(),
        "text": arrow.string(),
    }  # fmt: skip
    return arrow.schema([(column, types[kinds.get(column, "text")]) for column in columns])


def _typed(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "float":
        return as_float(value)
    return _text(value) if kind == "text" else value


def _cell(value: Any) -> Any:
    """A value in CSV: as Python writes numbers, texts as they are, anything else as JSON."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else repr(value)
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(_strict(value), ensure_ascii=False)


def _strict(value: Any) -> Any:
    """A value without the numbers that JSON lacks: texts in their place, as W&B writes them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _strict(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(below) for below in value]
    return value


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise UsageError("Parquet and Arrow need pyarrow: pip install pyarrow") from error
    return pyarrow
