"""Points of metrics as an Arrow IPC stream: how a server that has this package takes many at once.

A stream is a schema, one dictionary (the metrics' names) and one record batch, without compression.
What is read may come from anybody: a stream of another form, or one that is too large, is refused
before anything of its size is allocated, and all of it is checked before it is used.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.mlflow_access.point_blocks import Points, joined

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = "/arrow"
"""What follows the path of log-batch."""
CONTENT_TYPE = "application/vnd.apache.arrow.stream"
FORMAT = {"format": "mlflow-wandb-points", "version": 1}
"""The answer of a server that takes such streams."""
MOST_BYTES = 16 << 20
MOST_POINTS = 50_000
"""Points of a stream; they are written in one transaction, for whose end other writers wait."""
POINTS_SENT = 25_000
"""Points of a stream that is made here: less than a megabyte, which is as much as many proxies
take."""
MOST_NAMES = 10_000
LONGEST_NAME = 1_000
"""Characters; MLflow's own limit is 250, and its errors repeat the name."""
_MESSAGES = ["schema", "dictionary", "record batch"]
_END = b"\xff\xff\xff\xff\0\0\0\0"


class ArrowFormatError(ValueError):
    """A stream is not one of those that are read here."""


@functools.cache
def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.dictionary(pa.int32(), pa.utf8())),
            ("step", pa.int64()),
            ("timestamp", pa.int64()),
            ("value", pa.float64()),
        ]
    )


def parts(blocks: Sequence[Points]) -> Iterator[list[Points]]:
    """Split points, each metric of which is there once, into those of one stream each."""
    part: list[Points] = []
    left = POINTS_SENT
    for block in blocks:
        start = 0
        while start < len(block.values):
            taken = block.cut(start, start + left)
            part.append(taken)
            start += len(taken.values)
            left -= len(taken.values)
            if not left or len(part) == MOST_NAMES:
                yield part
                part, left = [], POINTS_SENT
    if part:
        yield part


def receipt(blocks: Sequence[Points]) -> dict[str, int]:
    """The answer to a request whose points are committed: no other server gives it, nor does one
    that got a GET, to which a redirect turns a POST."""
    return {"points": sum(len(block.values) for block in blocks)}


def encode(blocks: Sequence[Points]) -> bytes:
    """The stream of some points.

    Raises:
        UnicodeError: a name has no UTF-8.
    """
    import numpy as np
    import pyarrow as pa

    counts = [len(block.values) for block in blocks]
    count = sum(counts)

    def array(kind: pa.DataType, length: int, *buffers: Any) -> pa.Array:
        # `pyarrow.array` would import pandas.
        return pa.Array.from_buffers(kind, length, [None, *map(pa.py_buffer, buffers)])

    def column(index: int, kind: type[Any]) -> Any:
        return np.fromiter(chain.from_iterable(block[index] for block in blocks), kind, count)

    names = [block.name.encode() for block in blocks]
    ends = np.cumsum([0, *map(len, names)], dtype=np.int32)
    dictionary = array(pa.utf8(), len(names), ends, b"".join(names))
    keys = np.repeat(np.arange(len(blocks), dtype=np.int32), counts)
    batch = pa.RecordBatch.from_arrays(
        [
            pa.DictionaryArray.from_arrays(array(pa.int32(), count, keys), dictionary),
            array(pa.int64(), count, column(3, np.int64)),
            array(pa.int64(), count, column(2, np.int64)),
            array(pa.float64(), count, column(1, np.float64)),
        ],
        schema=_schema(),
    )
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, _schema()) as writer:
        writer.write_batch(batch)
    return bytes(stream.getvalue())


def decode(stream: bytes) -> list[Points]:
    """The points of a stream, each metric once.

    Raises:
        ArrowFormatError: the stream has another form, is too large or is damaged.
    """
    import pyarrow as pa

    if not stream.endswith(_END):
        raise ArrowFormatError("the stream has no end")
    try:
        _check_messages(stream)
        with pa.ipc.open_stream(stream) as reader:
            if not reader.schema.equals(_schema()):
                raise ArrowFormatError(f"the columns must be {_schema().to_string()!r}")
            batch = reader.read_next_batch()
        batch.validate(full=True)
        if any(column.null_count for column in (*batch.columns, batch.column(0).dictionary)):
            raise ArrowFormatError("a value is missing")
        return joined(list(_blocks(batch)))
    except ArrowFormatError:
        raise
    except (pa.ArrowException, ValueError, OSError, OverflowError, struct.error) as error:
        raise ArrowFormatError(f"the stream is damaged: {error}") from error


def _check_messages(stream: bytes) -> None:
    """Compare the messages with the ones of a stream, and the sizes that they name with the limits:
    nothing is decompressed or allocated for that."""
    import pyarrow as pa

    kinds = []
    for message in pa.ipc.MessageReader.open_stream(stream):
        kinds.append(message.type)
        if kinds != _MESSAGES[: len(kinds)]:
            break
        if message.type != "schema":
            names = message.type == "dictionary"
            rows, compressed = _rows(bytes(message.metadata), names)
            if compressed:
                raise ArrowFormatError("compressed streams are not taken")
            most = MOST_NAMES if names else MOST_POINTS
            if not 0 <= rows <= most:
                raise ArrowFormatError(f"{rows} rows in a message: {most} are the most")
    if kinds != _MESSAGES:
        raise ArrowFormatError(f"the messages must be {', '.join(_MESSAGES)}")


def _rows(message: bytes, in_dictionary: bool) -> tuple[int, bool]:
    """The number of rows that a message names, and whether its buffers are compressed: fields 0 and
    3 of Arrow's table RecordBatch, which pyarrow does not show before it has read the buffers."""

    def child(table: int, field: int) -> int:
        at = _field(message, table, field)
        return at + _UINT32.unpack_from(message, at)[0] if at else 0

    batch = child(_UINT32.unpack_from(message)[0], 2)
    if in_dictionary:
        batch = child(batch, 1)
    at = _field(message, batch, 0)
    rows = int(_INT64.unpack_from(message, at)[0]) if at else 0
    return rows, _field(message, batch, 3) != 0


def _field(message: bytes, table: int, field: int) -> int:
    """Where a field of a FlatBuffers table is; 0 if the table lacks it."""
    fields = table - _INT32.unpack_from(message, table)[0]
    entry = 4 + 2 * field
    if entry >= _UINT16.unpack_from(message, fields)[0]:
        return 0
    offset = int(_UINT16.unpack_from(message, fields + entry)[0])
    return table + offset if offset else 0


_UINT16, _UINT32, _INT32, _INT64 = map(struct.Struct, ("<H", "<I", "<i", "<q"))


def _blocks(batch: pa.RecordBatch) -> Iterator[Points]:
    """The points of each metric, in their order."""
    import numpy as np

    keys, *columns = batch.columns
    indices = keys.indices.to_numpy()
    numbers = [column.to_numpy() for column in columns]
    if (np.diff(indices) < 0).any():
        order = np.argsort(indices, kind="stable")
        indices, numbers = indices[order], [column[order] for column in numbers]
    ends = [*(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(indices)]
    steps, times, values = (column.tolist() for column in numbers)
    names = keys.dictionary.to_pylist()
    if max(map(len, names), default=0) > LONGEST_NAME:
        raise ArrowFormatError(f"a name has more than {LONGEST_NAME} characters")
    start = 0
    for end in ends if len(indices) else ():
        part = slice(start, end)
        yield Points(names[indices[start]], values[part], times[part], steps[part])
        start = end
