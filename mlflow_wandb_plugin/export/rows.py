"""Turn runs and their history into rows of a table: dicts by column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any, TypeAlias

from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    Item,
    RowObjects,
    RunInfo,
    Series,
    flatten,
)
from mlflow_wandb_plugin.mapping.to_mlflow import user_of

Row: TypeAlias = dict[str, Any]
RUN_COLUMNS = (
    "run_id", "name", "state", "created_at", "ended_at", "duration_s", "entity", "project", "user",
    "group", "job_type", "tags", "notes", "sweep_id", "exit_code", "url",
)  # fmt: skip
WIDE_COLUMNS = ("run_id", "_step", "_timestamp")
LONG_COLUMNS = ("run_id", "key", "_step", "_timestamp", "value", "text")
CONFIG, SUMMARY = "config.", "summary."


def run_row(info: RunInfo) -> Row:
    """Return one run: what describes it, its config and its summary, by dotted key.

    Times are ISO 8601 in UTC. W&B's internal config and summary keys are left out.
    """
    facts = info.facts
    ended_ms, started_ms = info.ended_ms, info.started_ms
    known = None not in (ended_ms, started_ms)
    row: Row = {
        "run_id": info.run_id,
        "name": info.name,
        "state": info.state,
        "created_at": _iso(started_ms),
        "ended_at": _iso(ended_ms),
        "duration_s": ((ended_ms or 0) - (started_ms or 0)) / 1000 if known else None,
        "entity": info.entity,
        "project": info.project,
        "user": user_of(facts),
        "group": info.group,
        "job_type": info.job_type,
        "tags": list(info.tags),
        "notes": info.notes,
        "sweep_id": info.sweep_id,
        "exit_code": info.exit_code,
        "url": info.url,
    }
    for prefix, tree in ((CONFIG, info.config), (SUMMARY, info.summary)):
        shown = {key: value for key, value in tree.items() if not key.startswith("_wandb")}
        row.update((prefix + ".".join(path), value) for path, value in flatten(shown).items())
    return row


def wide_rows(run_id: str, items: Iterable[Item]) -> Iterator[Row]:
    """Yield one row per history step, with a column per key; times are Unix seconds as W&B's."""
    block: dict[int, Row] = {}
    for item in items:
        if isinstance(item, Series) and item.kind == "history":
            name = ".".join(item.key)
            points = zip(item.steps, item.timestamps_ms, item.values, strict=True)
            for step, at, value in points:
                _row_at(block, run_id, step, at)[name] = value
        elif isinstance(item, RowObjects):
            row = _row_at(block, run_id, item.step, item.timestamp_ms)
            row.update((".".join(path), value) for path, value in item.values.items())
        elif isinstance(item, Checkpoint):
            # A block has all of its rows.
            yield from (block[step] for step in sorted(block))
            block = {}
    yield from (block[step] for step in sorted(block))


def long_rows(run_id: str, items: Iterable[Item]) -> Iterator[Row]:
    """Yield one row per logged value: numbers in ``value``, anything else in ``text``."""
    for item in items:
        if isinstance(item, Series) and item.kind == "history":
            name = ".".join(item.key)
            points = zip(item.steps, item.timestamps_ms, item.values, strict=True)
            for step, at, value in points:
                yield _long(run_id, name, step, at) | {"value": value}
        elif isinstance(item, RowObjects):
            for path, value in item.values.items():
                named = _long(run_id, ".".join(path), item.step, item.timestamp_ms)
                yield named | {"text": value}


def _row_at(block: dict[int, Row], run_id: str, step: int, at_ms: int) -> Row:
    row = block.get(step)
    if row is None:
        row = block[step] = {"run_id": run_id, "_step": step, "_timestamp": at_ms / 1000}
    return row


def _long(run_id: str, key: str, step: int, at_ms: int) -> Row:
    return {"run_id": run_id, "key": key, "_step": step, "_timestamp": at_ms / 1000}


def _iso(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    moment = datetime.fromtimestamp(at_ms / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
