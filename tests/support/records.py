"""Records of W&B's transaction log, as the SDK and wandb-core write them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

Path = tuple[str, ...]


def output_record(number: int, size: int) -> bytes:
    """A record of exactly ``size`` bytes (30 at least) that holds console text of its own."""
    text = "".join(random.Random(number).choices("abcdefgh", k=size))
    for length in range(size, max(0, size - 30), -1):
        record = Record(num=number)
        record.output_raw.line = text[:length]
        # The two lengths together can always be met; the text's alone jumps at 128, 16384, …
        for name in ("", "u"):
            record.uuid = name
            payload: bytes = record.SerializeToString()
            if len(payload) == size:
                return payload
    raise AssertionError(f"no record of {size} bytes")


def run_record(run_id: str = "r1", start_ms: int = 1_700_000_000_000, **fields: Any) -> Record:
    """What the SDK sends first. ``config`` and ``tags`` may be given as plain values."""
    record = Record()
    run = record.run
    run.run_id = run_id
    run.project = fields.pop("project", "unit")
    run.start_time.FromMilliseconds(start_ms)
    run.tags.extend(fields.pop("tags", ()))
    for key, value in fields.pop("config", {}).items():
        run.config.update.add(key=key, value_json=json.dumps(value))
    for name, value in fields.items():
        setattr(run, name, value)
    return record


def config_record(update: Mapping[str, Any], remove: Iterable[str] = ()) -> Record:
    record = Record()
    for key, value in update.items():
        record.config.update.add(key=key, value_json=json.dumps(value))
    for key in remove:
        record.config.remove.add(key=key)
    return record


def history_record(values: Mapping[str | Path, Any], step: int, timestamp: float) -> Record:
    """A finished row as wandb-core writes it: nested keys as paths."""
    record = Record()
    record.history.step.num = step
    rest = {"_step": step, "_runtime": 1.5, "_timestamp": timestamp}
    for key, value in {**values, **rest}.items():
        path = (key,) if isinstance(key, str) else key
        record.history.item.add(nested_key=path, value_json=json.dumps(value))
    return record


def partial_record(
    values: Mapping[str | Path, Any],
    step: int | None = None,
    commit: bool | None = None,
    timestamp: float = 1_700_000_000.0,
) -> Record:
    """One ``run.log`` call as the SDK sends it."""
    record = Record()
    request = record.request.partial_history
    for key, value in {**values, "_timestamp": timestamp}.items():
        item = request.item.add(value_json=json.dumps(value))
        if isinstance(key, str):
            item.key = key
        else:
            item.nested_key.extend(key)
    if step is not None:
        request.step.num = step
    if commit is not None:
        request.action.flush = commit
    return record


def summary_record(update: Mapping[str | Path, Any], remove: Iterable[str | Path] = ()) -> Record:
    record = Record()
    for key, value in update.items():
        item = record.summary.update.add(value_json=json.dumps(value))
        _name(item, key)
    for key in remove:
        _name(record.summary.remove.add(), key)
    return record


def exit_record(code: int = 0, runtime_s: int = 0) -> Record:
    record = Record()
    record.exit.exit_code, record.exit.runtime = code, runtime_s
    return record


def _name(item: Any, key: str | Path) -> None:
    if isinstance(key, str):
        item.key = key
    else:
        item.nested_key.extend(key)
