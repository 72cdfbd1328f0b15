"""Points as Arrow: what is encoded comes back, and nothing else is read, whatever it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_wandb_plugin.mlflow_access import arrow_points
from mlflow_wandb_plugin.mlflow_access.arrow_points import ArrowFormatError, decode, encode, parts
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points

INT64 = st.integers(-(2**63), 2**63 - 1)
POINT = st.tuples(st.floats(), INT64, INT64)
COLUMNS = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",))), st.lists(POINT, min_size=1, max_size=5)
)
GOOD = encode([Points("a", [1.0, 2.0], [3, 4], [5, 6]), Points("é", [math.nan], [7], [8])])


def blocks(columns: dict[str, list[tuple[float, int, int]]]) -> list[Points]:
    return [Points(name, *map(list, zip(*points, strict=True))) for name, points in columns.items()]


def stream(schema: pa.Schema | None = None, **columns: Any) -> bytes:
    """A stream of two points, some columns of which are others."""
    arrays = {
        "key": pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int32()), ["a"]),
        "step": pa.array([1, 2]),
        "timestamp": pa.array([1, 2]),
        "value": pa.array([1.0, 2.0]),
    } | columns
    batch = pa.record_batch({name: array for name, array in arrays.items() if array is not None})
    return written([batch])


def written(batches: list[pa.RecordBatch], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    options = {"options": pa.ipc.IpcWriteOptions(**options)}
    with pa.ipc.new_stream(sink, batches[0].schema, **options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def batch_of(count: int, names: list[str]) -> pa.RecordBatch:
    key = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), names)
    numbers = pa.array(range(count))
    return pa.record_batch(
        {"key": key, "step": numbers, "timestamp": numbers, "value": numbers.cast(pa.float64())}
    )


@given(COLUMNS)
def test_points_come_back(columns: dict[str, list[tuple[float, int, int]]]) -> None:
    """Every float, integer of 64 bits and name is as it was, in its order."""
    given_blocks = blocks(columns)
    # As text: NaN equals nothing, and 0.0 equals -0.0.
    assert repr(decode(encode(given_blocks))) == repr(given_blocks)


def test_numbers_of_other_kinds_are_floats_and_integers() -> None:
    """Columns of numpy, and whole numbers as values."""
    given_block = Points("a", (1, 2**60 + 1), np.array([3, 4]), range(2))
    assert decode(encode([given_block])) == [Points("a", [1.0, float(2**60 + 1)], [3, 4], [0, 1])]


def test_a_name_without_utf8_is_an_error() -> None:
    """Half of a surrogate pair."""
    with pytest.raises(UnicodeError):
        encode([Points("\ud800", [1.0], [1], [1])])


def test_points_in_any_order_are_put_together() -> None:
    """A metric's points keep their order, also where its name is in the dictionary twice."""
    key = pa.DictionaryArray.from_arrays(pa.array([1, 0, 2, 1], pa.int32()), ["a", "b", "a"])
    numbers = pa.array([1, 2, 3, 4])
    body = stream(key=key, step=numbers, timestamp=numbers, value=numbers.cast(pa.float64()))
    assert decode(body) == [
        Points("a", [2.0, 3.0], [2, 3], [2, 3]),
        Points("b", [1.0, 4.0], [1, 4], [1, 4]),
    ]


def test_parts_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of so many points and metrics; the points of a metric may be in several."""
    monkeypatch.setattr(arrow_points, "POINTS_SENT", 4)
    monkeypatch.setattr(arrow_points, "MOST_NAMES", 2)
    names = {"a": 3, "b": 6, "c": 1, "d": 1, "e": 1}
    found = parts([Points(name, *[list(range(n))] * 3) for name, n in names.items()])
    assert [[(block.name, block.steps) for block in part] for part in found] == [
        [("a", [0, 1, 2]), ("b", [0])],
        [("b", [1, 2, 3, 4])],
        [("b", [5]), ("c", [0])],
        [("d", [0]), ("e", [0])],
    ]
    assert not list(parts([]))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no end"),
        (GOOD[:-1], "no end"),
        (GOOD[8:], "damaged"),
        (GOOD[-8:], "messages must be"),
        (written([batch_of(1, ["a"])] * 2), "messages must be"),
        (written([batch_of(1, ["a"]), batch_of(1, ["b"])]), "messages must be"),
        (written([batch_of(1, ["a"]), batch_of(1, ["a", "b"])], emit_dictionary_deltas=True),
         "messages must be"),
        (written([batch_of(9, ["a"])], compression="zstd"), "compressed"),
        (written([batch_of(9, ["a"])], compression="lz4"), "compressed"),
        (stream(key=pa.array(["a", "b"])), "messages must be"),
        (stream(step=pa.array([1, 2], pa.int32())), "columns must be"),
        (stream(value=None), "columns must be"),
        (stream(model_id=pa.array(["m", "m"])), "columns must be"),
        (stream(value=pa.array([1.0, None])), "missing"),
        (stream(key=pa.DictionaryArray.from_arrays(pa.array([0, None], pa.int32()), ["a"])),
         "missing"),
        (stream(key=pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int32()), ["a", None])),
         "missing"),
        (stream(key=pa.DictionaryArray.from_arrays(
            pa.array([0, 9], pa.int32()), ["a"], safe=False)), "damaged"),
        (stream(key=pa.DictionaryArray.from_arrays(
            pa.array([0, 0], pa.int32()), pa.array([b"\xff"]).view(pa.utf8()))), "damaged"),
        (written([batch_of(arrow_points.MOST_POINTS + 1, ["a"])]), "50001 rows"),
        (written([batch_of(1, list(map(str, range(arrow_points.MOST_NAMES + 1))))]), "10001 rows"),
        (written([batch_of(1, ["k" * 1001])]), "more than 1000 characters"),
        (written([batch_of(4097, ["a"])]).replace(
            (4097).to_bytes(8, "little"), (2**61).to_bytes(8, "little")), f"{2**61} rows"),
    ],
)  # fmt: skip
def test_other_streams_are_refused(body: bytes, why: str) -> None:
    """Another end, order, schema or size, compression, missing values, wrong indices and bytes."""
    with pytest.raises(ArrowFormatError, match=why):
        decode(body)


def test_a_compressed_stream_is_not_decompressed() -> None:
    """One that claims to expand to 2**62 bytes is refused without the attempt."""
    body = written([batch_of(4000, ["a"])], compression="zstd")
    size = (8 * 4000).to_bytes(8, "little")
    assert size in body
    with pytest.raises(ArrowFormatError, match="compressed"):
        decode(body.replace(size, (2**62).to_bytes(8, "little")))


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1))
def test_changed_bytes_are_refused_or_change_values(changes: list[tuple[int, int]]) -> None:
    """Whatever bytes are changed, what is read is points, or an error of this module."""
    body = bytearray(GOOD)
    for at, byte in changes:
        body[at] = byte
    try:
        found = decode(bytes(body))
    except ArrowFormatError:
        return
    for block in found:
        assert len(block.values) == len(block.timestamps_ms) == len(block.steps) > 0
        assert type(block.name) is str
        assert {type(value) for value in block.values} == {float}
        assert {type(at) for at in (*block.timestamps_ms, *block.steps)} == {int}


@given(st.integers(0, len(GOOD) - 1), st.booleans())
def test_cut_streams_are_refused(size: int, ends: bool) -> None:
    """Any part of a stream, also one with an end after it."""
    with pytest.raises(ArrowFormatError):
        decode(GOOD[: min(size, len(GOOD) - 9)] + GOOD[-8:] if ends else GOOD[:size])
