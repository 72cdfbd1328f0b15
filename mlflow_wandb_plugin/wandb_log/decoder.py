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

from mlflow_wandb_plugin.core.model import (
    FileRef,
    Item,
    RunInfo,
    Series,
)
from mlflow_wandb_plugin.errors import RecordError
from mlflow_wandb_plugin.wandb_log.artifact_records import artifact_ref, used_artifact_ref
from mlflow_wandb_plugin.wandb_log.records import (
    HISTORY,
    REQUEST,
    SUMMARY,
    is_runtime_summary,
    record_type,
)
from mlflow_wandb_plugin.wandb_log.rows import Rows
from mlflow_wandb_plugin.wandb_log.run_state import RunFacts
from mlflow_wandb_plugin.wandb_log.steps import StepMachine

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import HistoryRecord, Record, StatsRecord, SummaryRecord


BLOCK_POINTS = 200_000


class RunDecoder:
    """Decodes the logs of one run, one segment after another.

    Call `begin` for each log, `feed` its records in order, `take` whenever convenient, and
    `end` behind each log.

    Attributes:
        changed: `info` would say something new.
    """

    def __init__(self) -> None:
        from wandb.proto.wandb_internal_pb2 import Record

        self._parse = Record.FromString
        self.run = RunFacts()
        self.changed = False
        self._files_dir: Path | None = None
        self._held_summary: bytes | None = None
        self._rows = Rows(self.run)
        self._machine = StepMachine(self._rows.metrics)

    # -- one log after another ------------------------------------------------------------

    def begin(self, segment: str, files_dir: Path | None) -> None:
        """The next records come from log ``segment``; its files lie in ``files_dir``."""
        self._rows.fold()
        self._rows.new_log()
        self._machine = StepMachine(self._rows.metrics)
        self.run.begin(segment)
        self._files_dir = files_dir

    def core_exit(self, payload: bytes) -> None:
        """The exit as wandb-core recorded it, beside a journal: it alone tells the run time."""
        self.run.add_exit(self._parse(payload).exit)
        self.changed = True

    def end(self) -> None:
        """The log has ended: what waits for a next record need wait no longer."""
        self._apply_held_summary()
        self._rows.add_rows(self._machine.flush())

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
            if not self._rows.add_plain(payload):
                self._rows.flush_plain()
                self._checked(lambda: self._rows.add_history(self._parse(payload).history))
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
        self._rows.add_history(history)

    def _on_request(self, request: Any) -> None:
        kind = request.WhichOneof("request_type")
        if kind == "partial_history":
            self._rows.add_rows(self._machine.add(request.partial_history))
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
        self._rows.fold()
        self._rows.metrics.define(metric)

    def _on_summary(self, summary: SummaryRecord) -> None:
        self._rows.fold()
        for item in summary.update:
            path = tuple(item.nested_key) or (item.key,)
            self._rows.summary.set(path, json.loads(item.value_json), self._rows.now + 1)
        for item in summary.remove:
            self._rows.summary.remove(tuple(item.nested_key) or (item.key,))

    def _on_files(self, files: Any) -> None:
        for item in files.files:
            if self._files_dir is not None and item.path.startswith("media/"):
                self._rows.put(FileRef(item.path, self._files_dir / item.path))

    def _on_artifact(self, artifact: Any) -> None:
        self._rows.put(artifact_ref(artifact))

    def _on_use_artifact(self, used: Any) -> None:
        self._rows.put(used_artifact_ref(used))

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
            self._rows.put(Series((item.key,), (0,), (timestamp_ms,), (value,), "system"))

    def _on_exit(self, exit_record: Any) -> None:
        self._rows.add_rows(self._machine.flush())
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
        self._rows.flush_plain()
        history = self._parse(payload).history
        if step is None or history.step.num > step:
            self._rows.add_history(history)

    # -- blocks ---------------------------------------------------------------------------

    @property
    def points(self) -> int:
        """Points since the last `take`."""
        return self._rows.points

    @property
    def spoiled(self) -> list[int]:
        """Sizes in bytes of rows that turned out to be none after `feed` had taken them; empty it
        when they have been told of."""
        return self._rows.spoiled

    def take(self, keep_points: bool = True) -> Iterator[Item]:
        """Yield what has come since the last call; ``keep_points=False`` empties the series: names
        are given by the order of keys, whoever has carried the points."""
        yield from self._rows.take(keep_points)

    def info(self) -> RunInfo:
        """The run as known so far."""
        self.changed = False
        self._rows.fold()
        return self.run.info(self._rows.summary.tree(), self._rows.last)

    def _apply_held_summary(self) -> None:
        if self._held_summary is not None:
            held, self._held_summary = self._held_summary, None
            self.feed_record(self._parse(held))
