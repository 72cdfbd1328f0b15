"""Recognize serialized records without parsing them."""

from __future__ import annotations

# Field numbers of wandb's Record.record_type.
HISTORY, SUMMARY, RUN = 2, 3, 17
_RECORD_TYPES = frozenset({*range(2, 14), 17, 18, *range(20, 28), 100})
_NUM_TAG = b"\x08"
_SHORT_TAGS: dict[int, int] = {number << 3 | 2: number for number in _RECORD_TYPES if number < 16}
"""Types by their one-byte tag; in most records it comes right after the record's number."""


def record_type(payload: bytes) -> int:
    """Return the field number of a serialized record's type, 0 if there is none."""
    at, end = 0, len(payload)
    if payload[:1] == _NUM_TAG and end > 2:
        at = 2
        while payload[at - 1] > 0x7F and at < end - 1:
            at += 1
        found = _SHORT_TAGS.get(payload[at])
        if found is not None:
            return found
        at = 0
    while at < end:
        tag = payload[at]
        at += 1
        if tag > 0x7F:
            tag, at = _varint(payload, at - 1)
        number, wire = tag >> 3, tag & 7
        if number in _RECORD_TYPES:
            return number
        if wire == 0:
            while at < end and payload[at] > 0x7F:
                at += 1
            at += 1
        elif wire == 2:
            size, at = _varint(payload, at)
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            return 0
    return 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at


def is_runtime_summary(payload: bytes) -> bool:
    """Whether this is the summary record with the run time that core writes before each row."""
    return len(payload) < 100 and b"\x12\x06_wandb\x12\x07runtime" in payload[:30]
