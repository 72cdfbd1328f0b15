"""Encode `core.model` as readable JSON, and decode it without loss.

JSON has no NaN, no infinity and no keys of several labels. They become objects of one member
whose name starts with ``$``; a user's object of that form is wrapped itself.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow_wandb_plugin.core.model import Key, RowObjects, RunInfo
from mlflow_wandb_plugin.core.step_axes import from_lists, of_entries
from mlflow_wandb_plugin.mapping import to_mlflow


def dumps(document: Any, indent: int | None = None) -> str:
    """Encode ``document`` as strict JSON in ASCII, which keeps lone surrogates."""
    return json.dumps(encode(document), indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Decode what `dumps` returned.

    Raises:
        ValueError: it is not JSON.
    """
    return decode(json.loads(text))


def encode(value: Any) -> Any:
    """Convert ``value`` to what strict JSON can express. Tuples become lists."""
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
    """Decode what `encode` returned."""
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
    """Encode a mapping by nested key.

    Returns:
        ``{"values": {dotted: value}, "labels": {dotted: [label, …]}}``; ``labels`` has only the
        keys that do not follow from their dotted names.
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
    """Decode what `keyed` returned."""
    labels = document.get("labels", {})
    return {
        tuple(labels.get(name, (name,))): decode(value)
        for name, value in document["values"].items()
    }


def info_document(info: RunInfo) -> dict[str, Any]:
    """Return the fields of ``info`` as a document for `dumps`."""
    return {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}


def info_from(document: Mapping[str, Any]) -> RunInfo:
    """Return the `RunInfo` of an `info_document` from `loads`; unknown fields are ignored.

    Raises:
        TypeError: it does not name a run.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(RunInfo):
        if field.name in document:
            value = document[field.name]
            values[field.name] = tuple(value) if isinstance(field.default, tuple) else value
    values["step_definitions"] = from_lists(values.get("step_definitions", ()))
    info = RunInfo(**values)
    if "step_definitions" in document:
        return info
    # An archive of an earlier version: W&B's server told them in the run's config.
    return replace(info, step_definitions=of_entries(to_mlflow.metric_definitions(info)))


def encode_row(row: RowObjects) -> str:
    """Encode one line of ``rows.jsonl``."""
    document = {"step": row.step, "timestamp_ms": row.timestamp_ms, **keyed(row.values)}
    return json.dumps(document, allow_nan=False)


def decode_row(line: str | bytes) -> RowObjects:
    """Decode one line of ``rows.jsonl``.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the line is damaged.
    """
    document = json.loads(line)
    return RowObjects(int(document["step"]), int(document["timestamp_ms"]), unkeyed(document))


def key_of(text: str) -> Key:
    """Decode a key in the ``path`` column of a metrics file: its labels as a JSON list.

    Raises:
        ValueError: it is not a list of labels.
    """
    labels = json.loads(text)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"no key: {text[:100]}")
    return tuple(labels)
