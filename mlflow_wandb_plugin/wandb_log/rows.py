"""Turn history rows into series, row objects and the run's summary."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from mlflow_wandb_plugin.core.model import Item, Key, RowObjects, as_float, nest
from mlflow_wandb_plugin.wandb_log.columns import Columns, milliseconds
from mlflow_wandb_plugin.wandb_log.metric_definitions import MetricDefinitions
from mlflow_wandb_plugin.wandb_log.plain_rows import MIN_ROWS, PlainBlock, PlainRows, parse_plain
from mlflow_wandb_plugin.wandb_log.run_state import RunFacts
from mlflow_wandb_plugin.wandb_log.steps import Row, typed_json
from mlflow_wandb_plugin.wandb_log.summary import SummaryFold

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import HistoryRecord


class Rows:
    """Collects the rows of one run, log after log, and returns them in blocks.

    Args:
        run: gets each row's step and time.

    Attributes:
        summary, metrics: of the current log.
        last: each metric's latest number in the current log.
        undecodable: sizes in bytes of rows that `add_plain` accepted and that could not be decoded.
    """

    def __init__(self, run: RunFacts) -> None:
        self._run = run
        self.undecodable: list[int] = []
        self._objects: dict[Key, Any] = {}
        self._out: list[Item] = []
        self._rows_before = 0
        self._columns = Columns()
        self.new_log()
        self._new_block()

    def new_log(self) -> None:
        """Start a log; wandb-core starts each without summary and definitions, also on resume."""
        self.summary = SummaryFold()
        self.metrics = MetricDefinitions(self.summary)
        self.last: dict[Key, float] = {}
        self._plain = PlainRows()

    def add_plain(self, payload: bytes) -> bool:
        """Add a serialized history record; False if it holds more than numbers."""
        return self._plain.add(payload)

    def add_item(self, item: Item) -> None:
        """Add an item that is no row."""
        self._out.append(item)

    def add_rows(self, rows: Iterator[Row]) -> None:
        """Add rows that the step machine has made of a journal's requests."""
        for row in rows:
            timestamp = row.values.pop(("_timestamp",), None)
            self._start_row(row.step, timestamp)
            nested = []
            for path, text in row.values.items():
                if len(path) > 1:
                    nested.append((path, text))
                elif path[0] not in ("_step", "_runtime"):
                    self._add_value(path, text)
            if nested:
                self._add_nested(nested)
            self._end_row()

    def add_history(self, history: HistoryRecord) -> None:
        """Add a finished row as wandb-core writes it.

        Raises:
            ValueError: a value is not JSON.
        """
        step: int | None = history.step.num if history.HasField("step") else None
        timestamp: str | None = None
        nested: list[tuple[Key, str]] = []
        flat: list[tuple[Key, str]] = []
        for item in history.item:
            path = tuple(item.nested_key) or (item.key,)
            text = item.value_json or typed_json(item)
            if len(path) > 1:
                nested.append((path, text))
            elif path == ("_timestamp",):
                timestamp = text
            elif path == ("_step",):
                step = int(float(text)) if step is None else step
            elif path != ("_runtime",):
                flat.append((path, text))
        self._start_row(step, timestamp)
        if self.metrics.has_globs:
            for path, _ in flat + nested:
                self.metrics.match_glob(path)
        for path, text in flat:
            self._add_value(path, text)
        if nested:
            self._add_nested(nested)
        self._end_row()

    def flush_plain(self) -> None:
        """Decode the rows of `add_plain`."""
        rows = self._plain.take()
        if rows:
            self._add_plain(rows)

    def _add_plain(self, rows: list[bytes]) -> None:
        """Decode rows at once; halve them while one of them holds more than numbers."""
        block = parse_plain(rows) if len(rows) >= MIN_ROWS else None
        if block is not None:
            self._add_block(block)
        elif len(rows) > MIN_ROWS:
            self._add_plain(rows[: len(rows) // 2])
            self._add_plain(rows[len(rows) // 2 :])
        else:
            for row in rows:
                self._add_serialized(row)

    def _add_serialized(self, row: bytes) -> None:
        from wandb.proto.wandb_internal_pb2 import HistoryRecord

        try:
            self.add_history(HistoryRecord.FromString(row))
        except (DecodeError, ValueError):
            self.undecodable.append(len(row))

    def _add_block(self, block: PlainBlock) -> None:
        if self.metrics.has_globs:
            for column in block.columns:
                self.metrics.match_glob(column.path)
        self._columns.add_block(block)
        self._run.count_rows(len(block.steps), block.steps[-1], block.times_ms[-1])
        self._run.note_time(max(block.times_ms))

    def _start_row(self, step: int | None, timestamp: str | None) -> None:
        self.flush_plain()
        run = self._run
        timestamp_ms = milliseconds(timestamp)
        if timestamp_ms is None:
            timestamp_ms = run.last_ms if run.last_ms is not None else run.started_ms or 0
        if step is None:
            step = 0 if run.last_step is None else run.last_step + 1
        run.count_rows(1, step, timestamp_ms)
        self._columns.start_row(step, timestamp_ms)

    def _end_row(self) -> None:
        if self._objects:
            step, timestamp_ms = self._columns.steps[-1], self._columns.times_ms[-1]
            objects = dict(sorted(self._objects.items()))
            self._out.append(RowObjects(step, timestamp_ms, objects))
            self._objects = {}

    def _add_value(self, path: Key, text: str) -> None:
        try:
            value = float(text)
        except ValueError:
            self._add_other(path, json.loads(text))
        else:
            self._columns.add(path, value)

    def _add_other(self, path: Key, value: Any) -> None:
        if isinstance(value, bool):
            self._fold_one(path)
            self._columns.add(path, float(value))
            self._fold_one(path, as_bool=True)
        elif isinstance(value, dict) and value and "_type" not in value:
            for label, below in value.items():
                self._add_other((*path, label), below)
        elif isinstance(value, (int, float)):
            self._columns.add(path, as_float(value))
        else:
            self._fold_one(path)
            self._objects[path] = value
            self._summarize(path, value)

    def _summarize(self, path: Key, value: Any) -> None:
        """Add a value to the summary, in which typed W&B values are trees like any other."""
        if isinstance(value, dict):
            for label, below in value.items():
                self._summarize((*path, label), below)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            self.summary.numbers(path, (as_float(value),), self.time)
        elif value is None:
            self.summary.null(path, self.time)
        else:
            self.summary.other(path, value, self.time)

    def _add_nested(self, items: list[tuple[Key, str]]) -> None:
        """Add nested values; their numbers are metrics unless they belong to a typed W&B value."""
        typed = {path[:-1] for path, text in items if path[-1] == "_type" and text[:1] == '"'}
        groups: dict[Key, dict[Key, Any]] = {}
        for path, text in items:
            owner = next((path[:n] for n in range(1, len(path)) if path[:n] in typed), None)
            if owner is None:
                self._add_value(path, text)
            else:
                groups.setdefault(owner, {})[path[len(owner) :]] = json.loads(text)
        for owner, leaves in groups.items():
            self._add_other(owner, nest(leaves))

    @property
    def points(self) -> int:
        """Points since the last `take`."""
        return self._columns.points + self._plain.points

    def take(self, keep_points: bool = True) -> Iterator[Item]:
        """Yield the items since the last call; see `RunDecoder.take`."""
        self.fold()
        columns, out = self._columns, self._out
        self._out = []
        self._new_block()
        yield from columns.series(keep_points)
        yield from out

    def _new_block(self) -> None:
        self._rows_before += len(self._columns.steps)
        self._columns = Columns()
        self._folded: dict[Key, int] = {}

    def fold(self) -> None:
        """Add the columns to the summary."""
        self.flush_plain()
        for path in self._columns.paths():
            self._fold_one(path)

    def _fold_one(self, path: Key, as_bool: bool = False) -> None:
        values = self._columns.values(path)
        done = self._folded.get(path, 0)
        if len(values) == done:
            return
        new = values[done:] if done else values
        at = 2 * (self._rows_before + self._columns.last_row(path) + 1)
        if as_bool:
            self.summary.other(path, bool(new[-1]), at)
        else:
            self.summary.numbers(path, new, at)
        self.last[path] = new[-1]
        self._folded[path] = len(values)

    @property
    def time(self) -> int:
        """The summary's logical time: 2n for row n, 2n + 1 for what the user sets after it."""
        return 2 * (self._rows_before + len(self._columns.steps))
