"""What wandb-core itself wrote into a ``.wandb`` file, read without any of the package's rules."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin.translog.framing import LogReader

INTERNAL = ("_wandb", "_step", "_runtime", "_timestamp")


def records(path: Path) -> list[Record]:
    reader = LogReader(path)
    found = [Record.FromString(frame.payload) for frame in reader.read()]
    reader.finish()
    assert reader.damage == []
    return found


def rows(path: Path) -> list[tuple[int, dict[tuple[str, ...], Any]]]:
    """(step, values by path) of each history row, without the run time."""
    found = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            values = {
                tuple(item.nested_key) or (item.key,): comparable(json.loads(item.value_json))
                for item in record.history.item
            }
            values.pop(("_runtime",), None)
            assert values.pop(("_step",)) == record.history.step.num
            found.append((record.history.step.num, values))
    return found


def summary(path: Path) -> dict[str, Any]:
    """The summary records one after another, the last one wins; null counts as absent."""
    tree: dict[str, Any] = {}
    for record in records(path):
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.remove:
                _remove(tree, list(item.nested_key) or [item.key])
            for item in record.summary.update:
                _set(tree, list(item.nested_key) or [item.key], json.loads(item.value_json))
    shown = {key: value for key, value in tree.items() if value is not None}
    return {key: comparable(value) for key, value in shown.items() if key not in INTERNAL}


def comparable(value: Any) -> Any:
    """NaN made equal to itself, 1.0 to 1; true stays apart from 1."""
    if isinstance(value, bool):
        return f"<{value}>"
    if isinstance(value, (int, float)):
        return "<nan>" if math.isnan(value) else float(value)
    if isinstance(value, dict):
        return {key: comparable(below) for key, below in value.items()}
    return [comparable(below) for below in value] if isinstance(value, list) else value


def _set(tree: dict[str, Any], path: list[str], value: Any) -> None:
    *above, last = path
    for label in above:
        below = tree.get(label)
        if not isinstance(below, dict):
            below = tree[label] = {}
        tree = below
    tree[last] = value


def _remove(tree: dict[str, Any], path: list[str]) -> None:
    *above, last = path
    for label in above:
        tree = tree.get(label, {})
    tree.pop(last, None)
