"""What wandb-core itself wrote into a ``.wandb`` file, read without any of the package's rules."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin.wandb_log.framing import LogReader

INTERNAL = ("_wandb", "_step", "_runtime", "_timestamp")


def records(path: Path) -> list[Record]:
    reader = LogReader(path)
    found = [Record.FromString(frame.payload) for frame in reader.read()]
    reader.finish()
    assert reader.unreadable == []
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
    """The summary records one after another, the last one wins; null counts as absent.

    This is what wandb-core sends to W&B's server. (`run.summary` while the run goes on is another
    thing: it hides what a definition hides, though W&B has been told of it.)
    """
    leaves: dict[tuple[str, ...], Any] = {}
    for record in records(path):
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.remove:
                _clear(leaves, tuple(item.nested_key) or (item.key,))
            for item in record.summary.update:
                key = tuple(item.nested_key) or (item.key,)
                _clear(leaves, key)
                for above in range(1, len(key)):
                    leaves.pop(key[:above], None)
                leaves[key] = json.loads(item.value_json)
    tree: dict[str, Any] = {}
    for key, value in leaves.items():
        if key[0] not in INTERNAL and value is not None:
            node = tree
            for label in key[:-1]:
                node = node.setdefault(label, {})
            node[key[-1]] = comparable(value)
    return tree


def comparable(value: Any) -> Any:
    """NaN made equal to itself, 1.0 to 1; true stays apart from 1."""
    if isinstance(value, bool):
        return f"<{value}>"
    if isinstance(value, (int, float)):
        return "<nan>" if math.isnan(value) else float(value)
    if isinstance(value, dict):
        return {key: comparable(below) for key, below in value.items()}
    return [comparable(below) for below in value] if isinstance(value, list) else value


def _clear(leaves: dict[tuple[str, ...], Any], key: tuple[str, ...]) -> None:
    for other in [other for other in leaves if other[: len(key)] == key]:
        del leaves[other]
