"""What W&B's own logs hold of each run, read without any of the package's code.

A run has one log a process that began it or went on with it; in W&B's shared mode each process has
a log of its own, with steps of its own.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

Leaf = tuple[str, ...]
Point = tuple[str, int, Any, int]
"""Key, step, value and time in ms, as MLflow is to have them."""
LARGEST = 1.7976931348623157e308
BLOCK = 32768
CHUNK = struct.Struct("<IHB")
MLFLOW_CALLS = "mlflow_calls"
"""In the config of a run to which MLflow's calls log: `mlflow_step` is then the step of a row."""
INTERNAL = ("_wandb", "_step", "_runtime", "_timestamp")


@dataclass
class WandbRun:
    """One run, as its logs say."""

    run_id: str
    project: str = ""
    name: str = ""
    notes: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    sweep: str = ""
    start_ms: int = 0
    exit_codes: list[int] = field(default_factory=list)
    first_config: dict[Leaf, Any] = field(default_factory=dict)
    config: dict[Leaf, Any] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    rows: list[dict[Leaf, Any]] = field(default_factory=list)
    """Each with its time, and with its step in its own log."""
    objects: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """What is no number, by row: media as their type."""
    summary: dict[str, Any] = field(default_factory=dict)
    samples: int = 0
    """How often the machine's CPU was measured."""


def wandb_runs(folder: Path) -> dict[str, WandbRun]:
    """The runs whose logs lie in a wandb folder, by their id."""
    runs: dict[str, WandbRun] = {}
    for path in sorted(folder.glob("*run-*/run-*.wandb")):
        _read_log(path, runs)
    return runs


def records(path: Path) -> Iterator[Record]:
    """The records of a log: LevelDB's format, after a header of seven bytes."""
    data = path.read_bytes()
    assert data[:7] == b":W&B\xe1\xbe\x00", path
    position, parts = 7, b""
    while position + CHUNK.size <= len(data):
        room = BLOCK - position % BLOCK
        if room < CHUNK.size:
            position += room
            continue
        crc, length, kind = CHUNK.unpack_from(data, position)
        payload = data[position + CHUNK.size : position + CHUNK.size + length]
        assert zlib.crc32(bytes([kind]) + payload) == crc, (path, position)
        position += CHUNK.size + length
        parts = payload if kind in (1, 2) else parts + payload
        if kind in (1, 4):
            yield Record.FromString(parts)


def _read_log(path: Path, runs: dict[str, WandbRun]) -> None:
    definitions: dict[str, str] = {}
    run = WandbRun("")
    steps = [one.history.step.num for one in records(path) if one.HasField("history")]
    # In shared mode W&B's server numbers the rows; in MLflow, each process counts its own.
    counted = iter(steps if any(steps) else range(len(steps)))
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = runs.setdefault(record.run.run_id, WandbRun(record.run.run_id))
            _describe(run, record.run)
        elif kind == "config":
            _configure(run, record.config)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            definitions[name] = record.metric.step_metric or definitions.get(name, "")
        elif kind == "history":
            _add_row(run, record.history, next(counted), definitions)
        elif kind == "summary":
            _summarize(run, record.summary)
        elif kind == "stats":
            run.samples += any(item.key == "cpu" for item in record.stats.item)
        elif kind == "exit":
            run.exit_codes.append(record.exit.exit_code)


def _describe(run: WandbRun, said: Any) -> None:
    run.project = said.project
    run.name, run.notes = said.display_name or run.name, said.notes or run.notes
    run.group, run.job_type = said.run_group or run.group, said.job_type or run.job_type
    run.tags, run.sweep = list(said.tags) or run.tags, said.sweep_id or run.sweep
    run.start_ms = run.start_ms or said.start_time.ToMilliseconds()
    _configure(run, said.config)


def _configure(run: WandbRun, said: Any) -> None:
    for item in said.update:
        above = tuple(item.nested_key) or (item.key,)
        for path in [path for path in run.config if path[: len(above)] == above]:
            del run.config[path]
        for path, value in leaves(above, json.loads(item.value_json)):
            run.config[path] = value
            run.first_config.setdefault(path, value)
    for item in said.remove:
        above = tuple(item.nested_key) or (item.key,)
        for path in [path for path in run.config if path[: len(above)] == above]:
            del run.config[path]


def leaves(path: Leaf, value: Any) -> Iterator[tuple[Leaf, Any]]:
    """The leaves of nested dictionaries; an empty one is a leaf."""
    if isinstance(value, dict) and value:
        for label, below in value.items():
            yield from leaves((*path, label), below)
    else:
        yield path, value


def _add_row(run: WandbRun, said: Any, step: int, definitions: Mapping[str, str]) -> None:
    row = {tuple(item.nested_key) or (item.key,): json.loads(item.value_json) for item in said.item}
    run.rows.append(row)
    at_ms = int(row["_timestamp",] * 1000)
    media = {path[:-1] for path in row if path[-1] == "_type"}
    objects = {".".join(path): row[(*path, "_type")] for path in media}
    numbers = {}
    for path, value in row.items():
        if path[0] in INTERNAL or any(path[: len(above)] == above for above in media):
            continue
        key = ".".join(path)
        if isinstance(value, dict) and "_type" in value:
            objects[key] = value["_type"]
        elif isinstance(value, (bool, int, float)):
            numbers[key] = value
        else:
            objects[key] = value
    if objects:
        run.objects.append((step, objects))
    of_mlflow = any(path[0] == MLFLOW_CALLS for path in run.config)
    of_row = numbers.pop("mlflow_step", step) if of_mlflow else step
    for key, value in numbers.items():
        at = of_row if of_row != step else numbers.get(_step_metric(key, definitions), step)
        place = int(at) if math.isfinite(at) and at == int(at) else step
        run.points.append((key, place, stored(value), at_ms))


def _step_metric(key: str, definitions: Mapping[str, str]) -> str:
    """As `define_metric` has said: the key itself, else the longest glob."""
    globs = [name for name in definitions if name.endswith("*") and key.startswith(name[:-1])]
    names = [key, *sorted(globs, key=len, reverse=True)]
    return next((definitions[name] for name in names if name in definitions), "")


def _summarize(run: WandbRun, said: Any) -> None:
    for item in said.remove:
        run.summary.pop(".".join(item.nested_key or [item.key]), None)
    for item in said.update:
        above = ".".join(item.nested_key or [item.key])
        for path, value in leaves((above,), json.loads(item.value_json)):
            run.summary[".".join(path)] = value


def stored(value: float) -> Any:
    """A number as MLflow's database gives it back, NaN as text."""
    number = float(value)
    if math.isnan(number):
        return "nan"
    return math.copysign(LARGEST, number) if math.isinf(number) else number
