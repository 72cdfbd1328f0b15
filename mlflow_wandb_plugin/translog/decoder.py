"""Transaction-log records in, model items out: one decoder for ``.wandb`` files and journals.

A ``.wandb`` file holds finished rows, a journal the partial-history requests that make them. Both
go through here, so a run read live and the same run read later come out equal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from mlflow_wandb_plugin.errors import RecordError
from mlflow_wandb_plugin.model import (
    FileRef,
    Item,
    Key,
    RowObjects,
    RunInfo,
    Series,
    as_float,
    nest,
)
from mlflow_wandb_plugin.translog.artifacts import artifact_ref, used_artifact_ref
from mlflow_wandb_plugin.translog.columns import Columns, milliseconds
from mlflow_wandb_plugin.translog.metrics import MetricDefinitions
from mlflow_wandb_plugin.translog.plain_rows import FEW, PlainBlock, PlainRows, parse_plain
from mlflow_wandb_plugin.translog.records import (
    HISTORY,
    REQUEST,
    SUMMARY,
    is_runtime_summary,
    record_type,
)
from mlflow_wandb_plugin.translog.run_state import RunFacts
from mlflow_wandb_plugin.translog.steps import StepMachine, typed_json
from mlflow_wandb_plugin.translog.summary import SummaryFold

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import HistoryRecord, Record, StatsRecord, SummaryRecord


BLOCK_POINTS = 200_000


class RunDecoder:
    """Decodes the logs of one run, one segment after another.

    Call `begin` for each log, `feed` its records in order, `take` whenever convenient, and
    `end` behind each log.

    Attributes:
        changed: `info` would say something new.
        spoiled: sizes in bytes of rows that turned out to be none after `feed` had taken them.
    """

    def __init__(self) -> None:
        from wandb.proto.wandb_internal_pb2 import Record

        self._parse = Record.FromString
        self.run = RunFacts()
        self.changed = False
        self.spoiled: list[int] = []
        self._files_dir: Path | None = None
        self._held_summary: bytes | None = None
        self._out: list[Item] = []
        self._objects: dict[Key, Any] = {}
        self._rows_before = 0
        self._columns = Columns()
        self._new_log()
        self._new_block()

    def _new_log(self) -> None:
        """wandb-core starts each log with no summary and no definitions, also on resume."""
        self._summary = SummaryFold()
        self._metrics = MetricDefinitions(self._summary)
        self._machine = StepMachine(self._metrics)
        self._plain = PlainRows()
        self._last: dict[Key, float] = {}

    # -- one log after another ------------------------------------------------------------

    def begin(self, segment: str, files_dir: Path | None) -> None:
        """The next records come from log ``segment``; its files lie in ``files_dir``."""
        self._fold()
        self._new_log()
        self.run.begin(segment)
        self._files_dir = files_dir

    def core_exit(self, payload: bytes) -> None:
        """The exit as wandb-core recorded it, beside a journal: it alone tells the run time."""
        self.run.add_exit(self._parse(payload).exit)
        self.changed = True

    def end(self) -> None:
        """The log has ended: what waits for a next record need wait no longer."""
        self._apply_held_summary()
        self._add_rows(self._machine.flush())

    # -- records --------------------------------------------------------------------------

    def feed(self, payload: bytes, rows: bool = True) -> None:
        """Take one serialized record; ``rows=False`` leaves history out.

        Raises:
            RecordError: it is no record that this version understands.
        """
        kind = record_type(payload)
        if kind == SUMMARY:
            # Core writes a row's own summary right before it; ours is folded from the rows.
            if self._held_summary is not None:
                self._checked(self._apply_held_summary)
            self._held_summary = None if is_runtime_summary(payload) else payload
        elif kind == HISTORY and rows:
            self._held_summary = None
            if not self._plain.add(payload):
                self._flush_plain()
                self._checked(lambda: self._add_history(self._parse(payload).history))
        else:
            self._checked(lambda: self._feed_other(payload, kind, rows))

    def _checked(self, take: Callable[[], None]) -> None:
        try:
            take()
        except (DecodeError, ValueError) as error:
            raise RecordError(f"not a record: {error}") from error

    def _feed_other(self, payload: bytes, kind: int, rows: bool) -> None:
        if kind == HISTORY:
            return
        if kind == REQUEST and not rows:
            record = self._parse(payload)
            if record.request.WhichOneof("request_type") == "partial_history":
                return
        self._apply_held_summary()
        self.feed_record(self._parse(payload))

    def feed_record(self, record: Record) -> None:
        """Take one parsed record of any type that is not history from a ``.wandb`` file."""
        kind = record.WhichOneof("record_type")
        handler = getattr(self, f"_on_{kind}", None)
        if handler is not None:
            handler(getattr(record, kind))

    def _on_history(self, history: HistoryRecord) -> None:
        self._add_history(history)

    def _on_request(self, request: Any) -> None:
        kind = request.WhichOneof("request_type")
        if kind == "partial_history":
            self._add_rows(self._machine.add(request.partial_history))
        elif kind == "run_start":
            self._on_run(request.run_start.run)
        elif kind == "log_artifact":
            self._on_artifact(request.log_artifact.artifact)

    def _on_run(self, run: Any) -> None:
        first = not self.run.seen_in_segment
        self.run.add_run(run)
        if run.starting_step and (first or not self._machine.step):
            self._machine.step = run.starting_step

        self.changed = True

    def _on_config(self, config: Any) -> None:
        self.run.add_config(config)
        self.changed = True

    def _on_environment(self, environment: Any) -> None:
        self.run.add_environment(environment)
        self.changed = True

    def _on_metric(self, metric: Any) -> None:
        self._fold()
        self._metrics.define(metric)

    def _on_summary(self, summary: SummaryRecord) -> None:
        self._fold()
        for item in summary.update:
            path = tuple(item.nested_key) or (item.key,)
            self._summary.set(path, json.loads(item.value_json), self._now + 1)
        for item in summary.remove:
            self._summary.remove(tuple(item.nested_key) or (item.key,))

    def _on_files(self, files: Any) -> None:
        for item in files.files:
            if self._files_dir is not None and item.path.startswith("media/"):
                self._out.append(FileRef(item.path, self._files_dir / item.path))

    def _on_artifact(self, artifact: Any) -> None:
        self._out.append(artifact_ref(artifact))

    def _on_use_artifact(self, used: Any) -> None:
        self._out.append(used_artifact_ref(used))

    def _on_preempting(self, _: Any) -> None:
        self.run.preempting = True

    def _on_output_raw(self, output: Any) -> None:
        self.run.saw(output.timestamp.ToMilliseconds())

    def _on_stats(self, stats: StatsRecord) -> None:
        timestamp_ms = stats.timestamp.ToMilliseconds()
        self.run.saw(timestamp_ms)
        for item in stats.item:
            try:
                value = float(json.loads(item.value_json))
            except (TypeError, ValueError):
                continue
            self._out.append(Series((item.key,), (0,), (timestamp_ms,), (value,), "system"))

    def _on_exit(self, exit_record: Any) -> None:
        self._add_rows(self._machine.flush())
        self.run.add_exit(exit_record)
        self.changed = True

    def shared_mode(self) -> None:
        """The run is one of several writers: W&B's server assigns the steps, not the SDK."""
        self._machine.shared = True

    def forget_pending(self) -> None:
        """Drop the row that is not finished: it will come, whole, from elsewhere."""
        self._machine.forget()

    def feed_row_after(self, step: int | None, payload: bytes) -> None:
        """Take a serialized history record of a ``.wandb`` file if its step is later."""
        self._flush_plain()
        history = self._parse(payload).history
        if step is None or history.step.num > step:
            self._add_history(history)

    # -- rows -----------------------------------------------------------------------------

    def _add_rows(self, rows: Iterator[Any]) -> None:
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

    def _add_history(self, history: HistoryRecord) -> None:
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
        if self._metrics.has_globs:
            for path, _ in flat + nested:
                self._metrics.match_glob(path)
        for path, text in flat:
            self._add_value(path, text)
        if nested:
            self._add_nested(nested)
        self._close_row()

    def _flush_plain(self) -> None:
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
            self._add_history(HistoryRecord.FromString(row))
        except (DecodeError, ValueError):
            self.spoiled.append(len(row))

    def _add_block(self, block: PlainBlock) -> None:
        if self._metrics.has_globs:
            for column in block.columns:
                self._metrics.match_glob(column.path)
        self._columns.add_block(block)
        self.run.saw_rows(len(block.steps), block.steps[-1], block.times_ms[-1])
        self.run.saw(max(block.times_ms))

    def _open_row(self, step: int | None, timestamp: str | None) -> None:
        self._flush_plain()
        run = self.run
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
        run = self.run
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
            self._summary.numbers(path, (as_float(value),), self._now)
        elif value is None:
            self._summary.null(path, self._now)
        else:
            self._summary.other(path, value, self._now)

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
        self._fold()
        columns, out = self._columns, self._out
        self._out = []
        self._new_block()
        yield from columns.series(keep_points)
        yield from out

    def info(self) -> RunInfo:
        """The run as known so far."""
        self.changed = False
        self._fold()
        return self.run.info(self._summary.tree(), self._last)

    def _new_block(self) -> None:
        self._rows_before += len(self._columns.steps)
        self._columns = Columns()
        self._folded: dict[Key, int] = {}

    def _fold(self) -> None:
        """Bring the summary up to date with the columns."""
        self._flush_plain()
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
            self._summary.other(path, bool(new[-1]), at)
        else:
            self._summary.numbers(path, new, at)
        self._last[path] = new[-1]
        self._folded[path] = len(values)

    @property
    def _now(self) -> int:
        """The summary's clock: row n strikes 2n, what the user sets after it has 2n + 1."""
        return 2 * (self._rows_before + len(self._columns.steps))

    def _apply_held_summary(self) -> None:
        if self._held_summary is not None:
            held, self._held_summary = self._held_summary, None
            self.feed_record(self._parse(held))
