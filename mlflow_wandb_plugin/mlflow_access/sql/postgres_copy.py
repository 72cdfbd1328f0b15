"""Points in PostgreSQL's binary COPY format; the rows of one metric are made by numpy, so that
Python does nothing for each of them.

The format is described in PostgreSQL's documentation of COPY: a header, rows (the number of fields,
then each field's size in bytes and its bytes, big-endian), and an end.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.mlflow_access.point_blocks import COLUMNS, LARGEST, Points, Row

if TYPE_CHECKING:
    from sqlalchemy import Connection

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_COUNT = struct.pack(">h", len(COLUMNS))
_SIZE = struct.Struct(">i")
_NUMBERS = struct.Struct(">idiqiqi?")
_SENT_AT_ONCE = 1 << 18
"""Bytes that psycopg2 reads and sends at a time; by default it is 8 KiB."""


def copy_points(connection: Connection, table: str, run_id: str, part: Sequence[Points]) -> None:
    """Copy points of a run into a table that has the columns of ``metrics``.

    Raises:
        psycopg2.Error, psycopg.Error: the driver's own error, not SQLAlchemy's.
    """

    def content(encoding: str) -> Iterator[bytes]:
        run = run_id.encode(encoding)
        for points in part:
            yield _rows_of_metric(points.name.encode(encoding), points, run)

    _copy(connection, table, content)


def copy_rows(connection: Connection, table: str, rows: Sequence[Row]) -> None:
    """Copy some rows of any runs and metrics.

    Raises:
        psycopg2.Error, psycopg.Error: as `copy_points`.
    """

    def content(encoding: str) -> Iterator[bytes]:
        @functools.cache
        def field(text: str) -> bytes:
            encoded = text.encode(encoding)
            return _SIZE.pack(len(encoded)) + encoded

        for name, value, at, step, is_nan, run_id in rows:
            yield _COUNT
            yield field(name)
            # Adding 0.0 removes the sign of a zero, as log_batch does through psycopg2.
            yield _NUMBERS.pack(8, value + 0.0, 8, at, 8, step, 1, is_nan)
            yield field(run_id)

    _copy(connection, table, content)


def _copy(connection: Connection, table: str, content: Callable[[str], Iterable[bytes]]) -> None:
    """Copy rows; ``content`` makes them for the encoding of the connection."""
    copy = f"COPY {table} ({', '.join(COLUMNS)}) FROM STDIN (FORMAT binary)"
    driver: Any = connection.connection.cursor()
    with contextlib.closing(driver) as cursor:
        stream = b"".join((_HEADER, *content(_encoding(cursor)), _END))
        if hasattr(cursor, "copy_expert"):
            cursor.copy_expert(copy, io.BytesIO(stream), _SENT_AT_ONCE)
        else:
            with cursor.copy(copy) as sent:
                sent.write(stream)


def _encoding(cursor: Any) -> str:
    """Python's name of the encoding in which the server takes a connection's texts."""
    if hasattr(cursor, "copy_expert"):
        from psycopg2.extensions import encodings

        return str(encodings[cursor.connection.encoding])
    return str(cursor.connection.info.encoding)


def _rows_of_metric(name: bytes, points: Points, run: bytes) -> bytes:
    """The rows of one metric, which are of one size."""
    import numpy as np

    values = np.array(points.values, np.float64)
    nan = np.isnan(values)
    values[nan] = 0
    # Adding 0.0 removes the sign of a zero, as log_batch does through psycopg2.
    values = values.clip(-LARGEST, LARGEST) + 0.0
    fields: Sequence[tuple[str, Any]] = [
        (f"{len(name)}u1", np.frombuffer(name, np.uint8)),
        (">f8", values),
        (">i8", np.array(points.timestamps_ms, np.int64)),
        (">i8", np.array(points.steps, np.int64)),
        ("u1", nan),
        (f"{len(run)}u1", np.frombuffer(run, np.uint8)),
    ]
    layout: list[tuple[str, str]] = [("count", ">i2")]
    for number, (kind, _) in enumerate(fields):
        layout += [(f"size{number}", ">i4"), (f"field{number}", kind)]
    rows = np.empty(len(values), layout)
    rows["count"] = len(fields)
    for number, (kind, content) in enumerate(fields):
        rows[f"size{number}"] = np.dtype(kind).itemsize
        rows[f"field{number}"] = content
    return rows.tobytes()
