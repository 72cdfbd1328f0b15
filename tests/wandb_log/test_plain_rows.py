"""Rows decoded many at once equal those that protobuf decodes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin.core.model import RowObjects, Series
from mlflow_wandb_plugin.wandb_log import rows as rows_module
from mlflow_wandb_plugin.wandb_log.decoder import RunDecoder
from mlflow_wandb_plugin.wandb_log.plain_rows import MIN_ROWS, PlainRows

KEYS = [
    ("a",), ("b/c",), ("é",), ("n", "x"), ("n", "y"), ("\u0082\x01",), ("k" * 130,), ("_hidden",),
    ("x\x82",), ("d.e",), (" ",), ("",),
]  # fmt: skip
NUMBERS = ["0", "-0.0", "1", "1.5", "1e-7", "-2.5E+10", "NaN", "Infinity", "-Infinity",
           "0.30000000000000004", "5e-324", "123456789012345678901", "1e400"]  # fmt: skip
ODD = ['"text"', "true", "null", '{"_type":"image-file","path":"p"}', "[1,2]", "{}"]
STEPS = [0, 1, 129, 130, 131, 258, 16_513, 16_514, 2**20 + 130, 2**31, 2**53, 2**53 + 1]


def record(
    number: int, step: int | None, items: list[tuple[tuple[str, ...], str]], time: str | None
) -> bytes:
    made = Record(num=number)
    for path, text in items:
        made.history.item.add(nested_key=path, value_json=text)
    if time is not None:
        made.history.item.add(nested_key=("_timestamp",), value_json=time)
    if step is not None:
        made.history.item.add(nested_key=("_step",), value_json=str(step))
        made.history.step.num = step
    return made.SerializeToString()


def decoded(payloads: list[bytes]) -> tuple[Any, ...]:
    """What a decoder makes of the records, comparable."""
    decoder = RunDecoder()
    decoder.begin("log")
    for payload in payloads:
        decoder.feed(payload)
    decoder.end()
    items = list(decoder.take())
    info = decoder.info()
    series = {
        item.key: [
            (step, at, repr(value))
            for step, at, value in zip(item.steps, item.timestamps_ms, item.values, strict=True)
        ]
        for item in items
        if isinstance(item, Series)
    }
    objects = [(row.step, row.timestamp_ms, repr(row.values)) for row in items
               if isinstance(row, RowObjects)]  # fmt: skip
    last = (info.last_step, info.last_ms, dict(info.rows), repr(sorted(info.last.items())))
    return series, objects, json.dumps(info.summary, sort_keys=True), last, decoder.undecodable


TIMES = st.sampled_from(["1700000000.123", "1.7e9", "-0.0001", "-5", "NaN", "1e300", None])
ROWS = st.lists(
    st.tuples(
        st.sampled_from([1, 127, 128, 130, 16_514]),
        st.one_of(st.sampled_from(STEPS), st.integers(0, 2**20), st.none()),
        st.lists(
            st.tuples(
                st.sampled_from(KEYS),
                st.one_of(
                    st.sampled_from(NUMBERS), st.floats().map(json.dumps), st.sampled_from(ODD)
                ),
            ),
            max_size=6,
        ),
        st.one_of(st.just("1700000000.5"), TIMES),
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=300)
@given(rows=ROWS)
def test_any_rows_are_the_same_either_way(rows: list[Any]) -> None:
    """Odd numbers, odd keys, keys twice, rows without a step or a time, text among them."""
    payloads = [record(*row) for row in rows]
    few = rows_module.MIN_ROWS
    try:
        rows_module.MIN_ROWS = 10**9  # type: ignore[misc]
        general = decoded(payloads)
        rows_module.MIN_ROWS = 1  # type: ignore[misc]
        assert decoded(payloads) == general
    finally:
        rows_module.MIN_ROWS = few  # type: ignore[misc]


def test_plain_rows_need_no_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of numbers, some keys in some rows only, are never parsed."""
    rows = [
        record(n, n, [(("a",), f"{n}.5"), *([(("b", "c"), "1e3")] if n % 3 else [])], f"{n}.25")
        for n in range(1000)
    ]
    decoder = RunDecoder()
    decoder.begin("log")
    monkeypatch.setattr(decoder, "_parse", None)
    for row in rows:
        decoder.feed(row)
    found = {item.key: item for item in decoder.take() if isinstance(item, Series)}
    assert list(found[("a",)].values) == [n + 0.5 for n in range(1000)]
    assert list(found[("b", "c")].steps) == [n for n in range(1000) if n % 3]
    assert list(found[("b", "c")].timestamps_ms) == [n * 1000 + 250 for n in range(1000) if n % 3]


def test_one_odd_row_costs_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block with a row that is not plain is halved until that row is found."""
    decoder = RunDecoder()
    decoder.begin("log")
    add, parsed = decoder._rows.add_history, []
    monkeypatch.setattr(decoder._rows, "add_history", lambda row: (parsed.append(row), add(row)))
    for n in range(512):
        items = [(("a",), "1"), (("a",), "2")] if n == 300 else [(("a",), "1")]
        decoder.feed(record(n, n, items, "5"))
    (series,) = [item for item in decoder.take() if isinstance(item, Series)]
    assert len(series.values) == 513
    assert len(parsed) <= MIN_ROWS


def test_a_row_that_cannot_be_decoded_is_reported() -> None:
    """Bytes that look like a history record and are no message are not lost in silence."""
    bad = b"\x08\x01\x12\x06\x0a\x20\x12\x01\x82\x01"
    decoder = RunDecoder()
    decoder.begin("log")
    decoder.feed(bad)
    decoder.feed(record(2, 2, [(("a",), "1")], "5"))
    assert len([item for item in decoder.take() if isinstance(item, Series)]) == 1
    assert decoder.undecodable == [6]


def test_text_is_seen_at_once() -> None:
    """A row with text, a truth value, an object or null does not wait among plain ones."""
    for text in ODD:
        assert not PlainRows().add(record(1, 1, [(("a",), "1"), (("b",), text)], "5"))
    assert not PlainRows().add(b"\x12\xff\xff\xff\x7fjunk")
    assert PlainRows().add(record(1, 1, [(("a",), "NaN"), (("b",), "-Infinity")], "5"))
