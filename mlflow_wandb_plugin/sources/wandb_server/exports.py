"""Decode W&B's parquet exports of a run's history by column, in bounded memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.errors import SourceError
from mlflow_wandb_plugin.sources.wandb_server.history_rows import Block, RunKeys, row_time_ms
from mlflow_wandb_plugin.wandb_api.client import one_line
from mlflow_wandb_plugin.wandb_log.summary import INTERNAL_KEYS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group of an export: its file, its number in it, and the range of its steps."""

    path: Path
    number: int
    first_step: int
    last_step: int
    sorted: bool


def row_groups(path: Path) -> list[RowGroup]:
    """Return the row groups of an export.

    Raises:
        SourceError: the file is not parquet, its footer is damaged, or it has no steps.
    """
    import pyarrow as pa

    try:
        with _open(path) as file:
            numbers = range(file.metadata.num_row_groups)
            return [group for n in numbers if (group := _describe(path, file, n))]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise SourceError(f"an export of W&B cannot be read: {one_line(str(error))}") from error


def by_step(groups: Iterable[RowGroup]) -> list[RowGroup]:
    """Return row groups by their first step."""
    return sorted(groups, key=lambda group: (group.first_step, group.last_step))


def in_order(groups: Sequence[RowGroup], after: int) -> bool:
    """Whether the steps of the groups that go beyond step ``after`` do not overlap."""
    later = [group for group in groups if group.last_step > after]
    return all(one.last_step < other.first_step for one, other in itertools.pairwise(later))


def batches(group: RowGroup, rows: int, columns: list[str] | None = None) -> Iterator[Any]:
    """Yield the group's record batches of at most ``rows`` rows, in order of their steps.

    Raises:
        SourceError: a page is damaged. No batch is yielded of which a value is.
    """
    import pyarrow as pa

    try:
        with _open(group.path) as file:
            if group.sorted:
                found = file.iter_batches(rows, row_groups=[group.number], columns=columns)
            else:
                table = file.read_row_group(group.number, columns=columns).sort_by("_step")
                found = iter(table.to_batches(max_chunksize=rows))
            for batch in found:
                batch.validate(full=True)
                yield batch
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"an export of W&B cannot be read: {one_line(str(error))}") from error


def steps_of(batch: pa.RecordBatch) -> Ints:
    """Return the steps of a batch."""
    import numpy as np

    return np.asarray(batch.column("_step").to_numpy(zero_copy_only=False), dtype=np.int64)


def add_batch(
    block: Block, keys: RunKeys, batch: pa.RecordBatch, wanted: Sequence[int], started_ms: int
) -> None:
    """Add the rows of ``batch`` at the positions ``wanted`` (ascending) to ``block``."""
    import pyarrow as pa

    if len(wanted) != batch.num_rows:
        batch = batch.take(pa.array(wanted, pa.int64()))
    first = len(block.steps)
    block.add_rows(steps_of(batch).tolist(), _times_ms(batch, started_ms))
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name not in INTERNAL_KEYS:
            _add_column(block, keys, name, column, first)


def _add_column(block: Block, keys: RunKeys, name: str, column: pa.Array, first: int) -> None:
    import pyarrow as pa

    kind = column.type
    if column.null_count == len(column):
        return
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        block.add_numbers(name, *_numbers(column, first))
    elif pa.types.is_struct(kind) and kind.get_field_index("_type") < 0 and kind.num_fields:
        for number, child in enumerate(column.flatten()):
            _add_column(block, keys, f"{name}.{kind.field(number).name}", child, first)
    else:
        texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        decode = texts and not keys.is_text(name)
        for row, value in enumerate(column.to_pylist(), first):
            if value is not None:
                block.add(row, name, _from_json(value) if decode else _without_nulls(value))


def _numbers(column: pa.Array, first: int) -> tuple[list[int], list[float]]:
    """Return row numbers and values. NaN is a value, null is not."""
    import numpy as np

    rows = np.arange(first, first + len(column))
    if column.null_count:
        rows = rows[column.is_valid().to_numpy(zero_copy_only=False)]
        column = column.drop_null()
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return rows.tolist(), values.tolist()


def _times_ms(batch: pa.RecordBatch, started_ms: int) -> list[int]:
    import numpy as np

    if "_timestamp" in batch.schema.names and not batch.column("_timestamp").null_count:
        seconds = batch.column("_timestamp").to_numpy(zero_copy_only=False).astype(np.float64)
        if np.isfinite(seconds).all():
            times: list[int] = (seconds * 1000).astype(np.int64).tolist()
            return times
    names = [name for name in ("_timestamp", "_runtime") if name in batch.schema.names]
    columns = [batch.column(name).to_pylist() for name in names]
    if not columns:
        return [started_ms] * batch.num_rows
    rows = (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    return [row_time_ms(row, started_ms) for row in rows]


def _from_json(text: str) -> Any:
    """Parse a value of a key with values of several types, which are exported as JSON texts."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _without_nulls(value: Any) -> Any:
    """Remove null fields of structs: in an export, every struct has the fields of all."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _describe(path: Path, file: pq.ParquetFile, number: int) -> RowGroup | None:
    steps = file.read_row_group(number, columns=["_step"]).column("_step").to_numpy()
    if not len(steps):
        return None
    rising = bool((steps[1:] > steps[:-1]).all())
    return RowGroup(path, number, int(steps.min()), int(steps.max()), rising)


def _open(path: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, memory_map=False, pre_buffer=False, page_checksum_verification=True)
