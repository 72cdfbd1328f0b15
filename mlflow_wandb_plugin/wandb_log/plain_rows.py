"""Decode many history rows that hold only numbers, without parsing protobuf.

wandb-core writes a row's items in any order, each as (tag, length, labels of the key, tag, length,
number). The items of many rows are found by the tag before their numbers. If each item ends where
the next one begins, from the first byte of a row to its last, none was missed. Rows with anything
else (text, media, typed values, very long keys) are parsed one by one instead, in `rows`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_wandb_plugin.core.model import Key

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_ROWS = 64
"""Fewer rows are faster to parse one by one."""
_VALUE = b"\x82\x01"
ROWS_PER_COUNT = 16
"""The numbers of one row in so many are counted; counting all takes 5 % of the reading time."""
_NOT_A_NUMBER = re.compile(rb'(?s)\x82\x01.["{\[tfn]')
_HISTORY_RECORD = re.compile(
    rb"(?s)(?:\x08[\x80-\xff]{0,9}[\x00-\x7f])?\x12([\x80-\xff]{0,4}[\x00-\x7f])"
)
_ITEM_TAG, _STEP_TAG, _STEP_NUMBER_TAG, _LABEL_TAG = 0x0A, 0x12, 0x08, 0x12
_STEP, _TIMESTAMP, _RUNTIME = ("_step",), ("_timestamp",), ("_runtime",)
_MAX_EXACT = 2.0**53
_PADDING = bytes(4)


class Column(NamedTuple):
    """The numbers of one key and the indices of their rows; None means every row."""

    path: Key
    rows: list[int] | None
    values: list[float]


class PlainBlock(NamedTuple):
    """Rows as columns."""

    steps: list[int]
    times_ms: list[int]
    columns: list[Column]


class PlainRows:
    """Collects serialized history messages that appear to hold only numbers.

    Attributes:
        points: estimate of how many numbers they hold.
    """

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self.points = 0
        self._points_per_row = 0

    def add(self, payload: bytes) -> bool:
        """Add a serialized history record; False if it holds more than numbers."""
        start = _history_start(payload)
        if start < 0 or _NOT_A_NUMBER.search(payload, start) is not None:
            return False
        if not len(self._rows) % ROWS_PER_COUNT:
            self._points_per_row = payload.count(_VALUE)
        self.points += self._points_per_row
        self._rows.append(payload[start:])
        return True

    def take(self) -> list[bytes]:
        """Return the messages that were added since the last call."""
        rows, self._rows, self.points = self._rows, [], 0
        return rows


def parse_plain(rows: Sequence[bytes]) -> PlainBlock | None:
    """Decode rows of `PlainRows`.

    Returns:
        None if a row holds more than numbers after all, or if numpy or pyarrow is not installed.
    """
    try:
        import numpy as np
        import pyarrow  # noqa: F401
    except ImportError:
        return None
    data = b"".join(rows) + _PADDING
    ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
    begins = np.concatenate(([0], ends[:-1]))
    items = _items(np.frombuffer(data, np.uint8), begins, ends)
    return None if items is None else _block(data, items, len(rows))


class _Items(NamedTuple):
    """Byte offsets of the items of all rows, in order."""

    row: NDArray[Any]
    key: NDArray[Any]
    tag: NDArray[Any]
    end: NDArray[Any]


def _items(data: NDArray[Any], begins: NDArray[Any], ends: NDArray[Any]) -> _Items | None:
    """Find the items; None if they do not cover the rows. A step may follow a row's last item."""
    import numpy as np

    ends = _without_step(data, begins, ends)
    tag = _tags(data, ends)
    first = np.searchsorted(tag, begins)
    counts = np.diff(np.append(first, len(tag)))
    if not len(tag) or counts.min() < 1:
        return None
    end = tag + 3 + data[tag + 2]
    begin = np.empty_like(end)
    begin[1:] = end[:-1]
    begin[first] = begins
    if end.max() > ends[-1] or (end[first + counts - 1] != ends).any():
        return None
    sound = (
        (data[begin] == _ITEM_TAG)
        & (data[begin + 1] == end - begin - 2)
        & (data[begin + 1] < 0x80)
        & (data[begin + 2] == _LABEL_TAG)
        & (begin + 4 < tag)
    )
    if not sound.all():
        return None
    return _Items(np.repeat(np.arange(len(begins)), counts), begin + 2, tag, end)


def _without_step(data: NDArray[Any], begins: NDArray[Any], ends: NDArray[Any]) -> NDArray[Any]:
    """Return where each row's items end: before its step message, which is empty for step 0."""
    short: NDArray[Any] = ends.copy()
    for size in (0, *range(2, 12)):
        at = (ends - size - 2).clip(min=0)
        here = (at > begins) & (data[at] == _STEP_TAG) & (data[at + 1] == size)
        if size:
            here &= data[at + 2] == _STEP_NUMBER_TAG
        short[here] = at[here]
    return short


def _tags(data: NDArray[Any], ends: NDArray[Any]) -> NDArray[Any]:
    """Return the offsets of the tags before values, without bytes of steps that look like them."""
    import numpy as np

    tag = np.flatnonzero((data[:-3] == 0x82) & (data[1:-2] == 0x01))
    odd = np.flatnonzero((data[tag - 1] >= 0x80) | (data[tag - 1] == _STEP_NUMBER_TAG))
    row = np.searchsorted(ends, tag[odd], side="right")
    begins = np.append(ends, len(data))
    in_step = (row > 0) & (tag[odd] - begins[row - 1] < 14)
    return np.delete(tag, odd[in_step])


def _block(data: bytes, items: _Items, rows: int) -> PlainBlock | None:
    import numpy as np
    import pyarrow as pa

    keys, texts = _slices(data, items)
    try:
        values = texts.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    keys = keys.dictionary_encode()
    which = keys.indices.to_numpy()
    if len(keys.dictionary) < 2**15:
        # Numpy sorts int16 by radix, which is faster.
        which = which.astype(np.int16)
    order = np.argsort(which, kind="stable")
    at = np.split(order, np.cumsum(np.bincount(which))[:-1])
    found: dict[Key, Any] = {}
    for raw, of_key in zip(keys.dictionary.to_pylist(), at, strict=True):
        path = _path(raw)
        if path is None or path in found or (np.diff(items.row[of_key]) < 1).any():
            return None
        found[path] = of_key
    times = _integers(found.pop(_TIMESTAMP, None), values, rows, 1000)
    steps = _integers(found.pop(_STEP, None), values, rows, 1)
    found.pop(_RUNTIME, None)
    if times is None or steps is None:
        return None
    columns = [
        Column(
            path,
            None if len(of_key) == rows else items.row[of_key].tolist(),
            values[of_key].tolist(),
        )
        for path, of_key in found.items()
    ]
    return PlainBlock(steps, times, columns)


def _slices(data: bytes, items: _Items) -> tuple[Any, Any]:
    """Return the keys and the numbers as arrays of text, without copying each in Python.

    The bytes are described as one array of consecutive pieces, four an item, of which the key is
    the first and the number the third.
    """
    import numpy as np
    import pyarrow as pa

    cuts = np.empty(4 * len(items.tag), np.int64)
    cuts[0::4], cuts[1::4], cuts[2::4], cuts[3::4] = (
        items.key, items.tag, items.tag + 3, items.end,
    )  # fmt: skip
    buffers = [None, pa.py_buffer(cuts), pa.py_buffer(data)]
    pieces = pa.Array.from_buffers(pa.large_binary(), len(cuts) - 1, buffers)
    texts = pa.Array.from_buffers(pa.large_string(), len(cuts) - 1, buffers)
    every = np.arange(0, len(cuts), 4)
    return pieces.take(pa.array(every)), texts.take(pa.array(every + 2))


def _integers(
    of_key: NDArray[Any] | None, values: NDArray[Any], rows: int, times: int
) -> list[int] | None:
    """Return a key's numbers times ``times``, truncated; None if not every row has one."""
    import numpy as np

    if of_key is None or len(of_key) != rows:
        return None
    scaled = values[of_key] * times
    if not (np.abs(scaled) < _MAX_EXACT).all() or (times > 1 and (scaled <= -1).any()):
        return None
    integers: list[int] = scaled.astype(np.int64).tolist()
    return integers


def _history_start(payload: bytes) -> int:
    """Return where the history message begins; -1 if the record has more than num and history."""
    found = _HISTORY_RECORD.match(payload)
    if found is None:
        return -1
    size = 0
    for byte in reversed(found[1]):
        size = size << 7 | byte & 0x7F
    return found.end() if found.end() + size == len(payload) else -1


def _path(raw: bytes) -> Key | None:
    """Return the labels in a sequence of (tag, length, label); None if it is anything else."""
    labels: list[str] = []
    at = 0
    while at < len(raw):
        if raw[at] != _LABEL_TAG or at + 1 >= len(raw) or raw[at + 1] > 0x7F:
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
