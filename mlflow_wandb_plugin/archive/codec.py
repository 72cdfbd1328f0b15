"""The model as JSON and back, without loss, in a form that people can read too.

JSON has no NaN, no infinity and no keys of several labels. They become objects of one member
whose name starts with ``$``; an object of the user's that looks like one is wrapped itself.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import Key, RowObjects, RunInfo


def dumps(document: Any, indent: int | None = None) -> str:
    """``document`` as strict JSON in ASCII (a lone surrogate survives that way)."""
    return json.dumps(encode(document), indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """The inverse of `dumps`.

    Raises:
        ValueError: it is no JSON.
    """
    return decode(json.loads(text))


def encode(value: Any) -> Any:
    """``value`` as what strict JSON can hold. Tuples become lists."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Mapping):
        if any(isinstance(key, tuple) for key in value):
            return {"$keyed": keyed(value)}
        plain = {str(key): encode(below) for key, below in value.items()}
        return {"$object": plain} if _looks_encoded(plain) else plain
    if isinstance(value, (list, tuple)):
        return [encode(below) for below in value]
    return str(value)


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(below) for below in value]
    if not isinstance(value, dict):
        return value
    if _looks_encoded(value):
        [(kind, below)] = value.items()
        if kind == "$float":
            return float(below)
        if kind == "$keyed":
            return unkeyed(below)
        if kind == "$object":
            return {key: decode(item) for key, item in below.items()}
    return {key: decode(below) for key, below in value.items()}


def _looks_encoded(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def keyed(values: Mapping[Key, Any]) -> dict[str, Any]:
    """A mapping by nested key as ``{"values": {dotted: value}, "labels": {dotted: [label, …]}}``.

    ``labels`` holds only what the dotted name does not say.
    """
    named: dict[str, Any] = {}
    labels: dict[str, list[str]] = {}
    for key, value in values.items():
        name = ".".join(key)
        if name in named:
            name = json.dumps(key)
        named[name] = encode(value)
        if key != (name,):
            labels[name] = list(key)
    return {"values": named, "labels": labels} if labels else {"values": named}


def unkeyed(document: Mapping[str, Any]) -> dict[Key, Any]:
    """The inverse of `keyed`."""
    labels = document.get("labels", {})
    return {
        tuple(labels.get(name, (name,))): decode(value)
        for name, value in document["values"].items()
    }


def info_document(info: RunInfo) -> dict[str, Any]:
    """A run's description, field by field, for `dumps`."""
    return {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}


def info_from(document: Mapping[str, Any]) -> RunInfo:
    """The inverse of `info_document`, of what `loads` gave. Fields that this version does not
    know are left out.

    Raises:
        TypeError: it names no run.
    """
    known = {field.name: field for field in dataclasses.fields(RunInfo)}
    values: dict[str, Any] = {}
    for name, value in document.items():
        if name in known:
            values[name] = tuple(value) if isinstance(known[name].default, tuple) else value
    return RunInfo(**values)


def encode_row(row: RowObjects) -> str:
    """One line of ``rows.jsonl``."""
    document = {"step": row.step, "timestamp_ms": row.timestamp_ms, **keyed(row.values)}
    return json.dumps(document, allow_nan=False)


def decode_row(line: str | bytes) -> RowObjects:
    """The inverse of `encode_row`.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is no such line.
    """
    document = json.loads(line)
    return RowObjects(int(document["step"]), int(document["timestamp_ms"]), unkeyed(document))


def key_text(key: Key) -> str:
    """The ``path`` column of a metrics file: the key's labels as a JSON list."""
    return json.dumps(key)


def key_of(text: str) -> Key:
    """The inverse of `key_text`.

    Raises:
        ValueError: it is no list of labels.
    """
    labels = json.loads(text)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"no key: {text[:100]}")
    return tuple(labels)


def write_atomically(path: Path, text: str, suffix: str = ".tmp") -> None:
    """Replace ``path`` as a whole; after a crash it holds the old text or the new one.

    Args:
        suffix: of the file that waits; no two processes may use one at the same time.
    """
    waiting = path.with_name(path.name + suffix)
    with open(waiting, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(waiting, path)
