"""History rows in, series and the rest of rows out; the summary that they fold into."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from mlflow_wandb_plugin.core.model import Item, Key, RowObjects, as_float, nest
from mlflow_wandb_plugin.wandb_log.columns import Columns, milliseconds
from mlflow_wandb_plugin.wandb_log.metric_definitions import MetricDefinitions
from mlflow_wandb_plugin.wandb_log.plain_rows import FEW, PlainBlock, PlainRows, parse_plain
from mlflow_wandb_plugin.wandb_log.run_state import RunFacts
from mlflow_wandb_plugin.wandb_log.steps import Row, typed_json
from mlflow_wandb_plugin.wandb_log.summary import SummaryFold

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import HistoryRecord


class Rows:
    """The rows of one run, log after log, in blocks.

    Args:
        run: is told of each row's step and time.

    Attributes:
        summary, metrics: of the log that is being read.
        last: each metric's latest number in it.
        spoiled: sizes in bytes of rows that turned out to be none after `add_plain` took them.
    """

    def __init__(self, run: RunFacts) -> None:
        self._run = run
        self.spoiled: list[int] = []
        self._objects: dict[Key, Any] = {}
        self._out: list[Item] = []
        self._rows_before = 0
        self._columns = Columns()
        self.new_log()
        self._new_block()

    def new_log(self) -> None:
        """wandb-core starts each log with no summary and no definitions, also on resume."""
        self.summary = SummaryFold()
        self.metrics = MetricDefinitions(self.summary)
        self.last: dict[Key, float] = {}
        self._plain = PlainRows()

    def add_plain(self, payload: bytes) -> bool:
        """Take a serialized record that holds history, if it looks like numbers alone."""
        return self._plain.add(payload)

    def put(self, item: Item) -> None:
        """Something that is no row, behind those that have come."""
        self._out.append(item)

    def add_rows(self, rows: Iterator[Row]) -> None:
        """Take rows that the step machine has made of a journal's requests."""
        for row in rows:
            timestamp = row.values.pop(("_timestamp",), None)
            self._open_row(row.step, timestamp)
            nested = []
            for path, text in row.values.items():
                if len(path) > 1:
                    nested.append((path, text))
                elif path[0] not in ("_step", "_runtime"):
                    self._add_value(path, text)
            if nested:
                self._add_nested(nested)
            self._close_row()

    def add_history(self, history: HistoryRecord) -> None:
        """Take a finished row as wandb-core writes it, whatever it holds.

        Raises:
            ValueError: a value in it is no JSON.
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
        self._open_row(step, timestamp)
        if self.metrics.has_globs:
            for path, _ in flat + nested:
                self.metrics.match_glob(path)
        for path, text in flat:
            self._add_value(path, text)
        if nested:
            self._add_nested(nested)
        self._close_row()

    def flush_plain(self) -> None:
        """Rows that were taken without parsing join the others."""
        rows = self._plain.take()
        if rows:
            self._add_plain(rows)

    def _add_plain(self, rows: list[bytes]) -> None:
        """Where not all rows are plain, those around the odd ones are."""
        block = parse_plain(rows) if len(rows) >= FEW else None
        if block is not None:
            self._add_block(block)
        elif len(rows) > FEW:
            self._add_plain(rows[: len(rows) // 2])
            self._add_plain(rows[len(rows) // 2 :])
        else:
            for row in rows:
                self._add_unsure(row)

    def _add_unsure(self, row: bytes) -> None:
        from wandb.proto.wandb_internal_pb2 import HistoryRecord

        try:
            self.add_history(HistoryRecord.FromString(row))
        except (DecodeError, ValueError):
            self.spoiled.append(len(row))

    def _add_block(self, block: PlainBlock) -> None:
        if self.metrics.has_globs:
            for column in block.columns:
                self.metrics.match_glob(column.path)
        self._columns.add_block(block)
        self._run.saw_rows(len(block.steps), block.steps[-1], block.times_ms[-1])
        self._run.saw(max(block.times_ms))

    def _open_row(self, step: int | None, timestamp: str | None) -> None:
        self.flush_plain()
        run = self._run
        timestamp_ms = milliseconds(timestamp)
        if timestamp_ms is None:
            timestamp_ms = self._time_before
        if step is None:
            step = 0 if run.last_step is None else run.last_step + 1
        run.saw_rows(1, step, timestamp_ms)
        self._columns.open_row(step, timestamp_ms)

    @property
    def _time_before(self) -> int:
        """What a row gets that has no time of its own, ms."""
        run = self._run
        return run.last_ms if run.last_ms is not None else run.started_ms or 0

    def _close_row(self) -> None:
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
            return
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
        """To the summary a typed W&B value is a tree like any other, defined leaf by leaf."""
        if isinstance(value, dict):
            for label, below in value.items():
                self._summarize((*path, label), below)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            self.summary.numbers(path, (as_float(value),), self.now)
        elif value is None:
            self.summary.null(path, self.now)
        else:
            self.summary.other(path, value, self.now)

    def _add_nested(self, items: list[tuple[Key, str]]) -> None:
        """Numbers below nested keys are metrics, unless they belong to a typed W&B value."""
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

    # -- blocks ---------------------------------------------------------------------------

    @property
    def points(self) -> int:
        """Points since the last `take`."""
        return self._columns.points + self._plain.points

    def take(self, keep_points: bool = True) -> Iterator[Item]:
        """Yield what has come since the last call; ``keep_points=False`` empties the series: names
        are given by the order of keys, whoever has carried the points."""
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
        """Bring the summary up to date with the columns."""
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
    def now(self) -> int:
        """The summary's clock: row n strikes 2n, what the user sets after it has 2n + 1."""
        return 2 * (self._rows_before + len(self._columns.steps))
