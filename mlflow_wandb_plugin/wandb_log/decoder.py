"""Decode the records of ``.wandb`` files and journals into items of `core.model`.

A ``.wandb`` file holds finished history rows, a journal the partial-history requests of which
wandb-core makes them. One decoder reads both, so that a run has the same points, whether it is
read live or later.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from mlflow_wandb_plugin.core.model import Item, RunInfo, Series, StepDefinition
from mlflow_wandb_plugin.core.step_axes import key_of
from mlflow_wandb_plugin.errors import RecordError
from mlflow_wandb_plugin.wandb_log.artifact_records import artifact_ref, used_artifact_ref
from mlflow_wandb_plugin.wandb_log.local_files import LocalFiles
from mlflow_wandb_plugin.wandb_log.metadata_file import (
    MAX_BYTES,
    METADATA_FILE,
    facts_of,
    json_object,
)
from mlflow_wandb_plugin.wandb_log.records import HISTORY, SUMMARY, is_runtime_summary, record_type
from mlflow_wandb_plugin.wandb_log.rows import Rows
from mlflow_wandb_plugin.wandb_log.run_state import RunFacts
from mlflow_wandb_plugin.wandb_log.steps import StepMachine
from mlflow_wandb_plugin.wandb_log.summary import INTERNAL_KEYS
from mlflow_wandb_plugin.wandb_log.system_stats import measured

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record, StatsRecord, SummaryRecord

BLOCK_POINTS = 200_000
"""Points after which a reader should `take` a block."""
_RUN_RECORDS = frozenset({"config", "environment", "exit", "alert"})


class RunDecoder:
    """Decodes the logs of one run, one segment after another.

    Call `begin` for each log, `feed` with its records in order, `take` at any time, and `end` after
    each log.

    Attributes:
        run: what the records say about the run itself.
        changed: whether `info` would return something new.
    """

    def __init__(self) -> None:
        from wandb.proto.wandb_internal_pb2 import Record

        self._parse = Record.FromString
        self.run = RunFacts()
        self.changed = False
        self._axes_told = 0
        self._files = LocalFiles()
        self._held_summary: bytes | None = None
        self._may_be_carried = True
        self._rows = Rows(self.run)
        self._machine = StepMachine(self._rows.metrics)
        self._handlers: dict[str, Callable[[Any], None]] = {
            "history": self._rows.add_history,
            "request": self._add_request,
            "run": self._add_run,
            "config": self.run.add_config,
            "environment": self.run.add_environment,
            "metric": self._add_metric,
            "summary": self._add_summary,
            "files": self._add_files,
            "artifact": self._add_artifact,
            "use_artifact": lambda used: self._rows.add_item(used_artifact_ref(used)),
            "preempting": self._add_preempting,
            "output_raw": lambda output: self.run.note_time(output.timestamp.ToMilliseconds()),
            "stats": self._add_stats,
            "exit": self._add_exit,
            "alert": self.run.add_alert,
        }

    # -- one log after another ------------------------------------------------------------

    def begin(self, segment: str, files: LocalFiles | None = None) -> None:
        """Start log ``segment``; ``files`` says which files that its records name may be read."""
        self._rows.fold()
        self._rows.new_log()
        self._machine = StepMachine(self._rows.metrics)
        self.run.begin(segment)
        self._files = files or LocalFiles()
        self._may_be_carried = True

    def feed_core_exit(self, payload: bytes) -> None:
        """Add the exit record of wandb-core's file to a journal, whose own has no run time."""
        self.run.add_exit(self._parse(payload).exit)
        self.changed = True

    def end(self) -> None:
        """End the log: apply what was waiting for its next record, and the metadata file of a
        version of wandb that does not record the machine."""
        if not self.run.has_environment:
            metadata = self._files.ref(METADATA_FILE)
            self.run.facts.update(facts_of(json_object(metadata.local, MAX_BYTES)))
        self._apply_held_summary()
        self._rows.add_rows(self._machine.flush())

    # -- records --------------------------------------------------------------------------

    def feed(self, payload: bytes, rows: bool = True) -> None:
        """Decode one serialized record; ``rows=False`` ignores history.

        Raises:
            RecordError: it cannot be decoded.
        """
        kind = record_type(payload)
        if kind == SUMMARY:
            # Core writes the summary of a row right before the row; we compute it from the rows.
            # Only a summary that no row follows is the user's.
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
        except (DecodeError, ValueError, RecursionError) as error:
            raise RecordError(f"not a record: {error}") from error

    def _feed_other(self, payload: bytes, kind: int, rows: bool) -> None:
        if kind == HISTORY:
            return
        request = None if rows else self._parse(payload).request
        if request is not None and request.WhichOneof("request_type") == "partial_history":
            return
        self._apply_held_summary()
        self._feed_record(self._parse(payload))

    def _feed_record(self, record: Record) -> None:
        kind = record.WhichOneof("record_type") or ""
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(getattr(record, kind))
            self.changed = self.changed or kind in _RUN_RECORDS

    def _add_request(self, request: Any) -> None:
        kind = request.WhichOneof("request_type")
        if kind == "partial_history":
            self._rows.add_rows(self._machine.add(request.partial_history))
        elif kind == "run_start":
            self._add_run(request.run_start.run, answered=True)
            self._may_be_carried = False
        elif kind == "log_artifact":
            self._add_artifact(request.log_artifact.artifact)

    def _add_run(self, run: Any, answered: bool = False) -> None:
        first = not self.run.seen_in_segment
        self.run.add_run(run, answered)
        if run.starting_step and (first or not self._machine.step):
            self._machine.step = run.starting_step
            self.run.continue_after(run.starting_step - 1)
        self.changed = True

    def _add_metric(self, metric: Any) -> None:
        self._rows.fold()
        metrics = self._rows.metrics
        metrics.define(metric)
        name = key_of(metric.name) or metric.glob_name
        # What wandb-core makes of a glob, at the first row of a key, is made here by our own rule.
        if name and not metric.expanded_from_glob:
            last = self.run.last_step
            # The field's name starts with an underscore, so protobuf exposes it only by getattr.
            cleared = getattr(metric, "_control").overwrite  # noqa: B009
            since, step_metric = (
                0 if last is None else last + 1,
                key_of(metrics.step_metric(metric)),
            )
            definition = StepDefinition(since, name, step_metric)
            self.run.axes.define(definition, cleared, metrics.expanded)

    def _add_summary(self, summary: SummaryRecord) -> None:
        self._rows.fold()
        fold, at = self._rows.summary, self._rows.time + 1
        add = fold.carry if self._is_carried(summary) else fold.set
        for item in summary.update:
            add(tuple(item.nested_key) or (item.key,), json.loads(item.value_json), at)
        for item in summary.remove:
            self._rows.summary.remove(tuple(item.nested_key) or (item.key,))

    def _is_carried(self, summary: SummaryRecord) -> bool:
        """Whether this is the summary with which W&B's server lets a resumed run begin.

        The SDK sends it back to wandb-core before the run starts, with W&B's internal keys.
        """
        if not self._may_be_carried or self.run.rows_of_log:
            return False
        self._may_be_carried = False
        values = {item.key: item.value_json for item in summary.update}
        if INTERNAL_KEYS.isdisjoint(values):
            return False
        with contextlib.suppress(ValueError):
            self.run.continue_after(int(values.get("_step", "")))
        return True

    def _add_files(self, files: Any) -> None:
        for item in files.files:
            if self._files.files_dir is not None and item.path.startswith("media/"):
                self._rows.add_item(self._files.ref(item.path))

    def _add_artifact(self, artifact: Any) -> None:
        self._rows.add_item(artifact_ref(artifact, self._files))

    def _add_preempting(self, _: Any) -> None:
        self.run.preempting = True

    def _add_stats(self, stats: StatsRecord) -> None:
        timestamp_ms = stats.timestamp.ToMilliseconds()
        self.run.note_time(timestamp_ms)
        for item in stats.item:
            with contextlib.suppress(ValueError):
                for key, value in measured(item.key, json.loads(item.value_json)):
                    self._rows.add_item(Series((key,), (0,), (timestamp_ms,), (value,), "system"))

    def _add_exit(self, exit_record: Any) -> None:
        self._rows.add_rows(self._machine.flush())
        self.run.add_exit(exit_record)

    def set_shared_mode(self) -> None:
        """Ignore the SDK's steps: with several writers, W&B's server assigns them."""
        self._machine.shared = True

    def drop_pending_row(self) -> None:
        """Drop the unfinished row of a journal, because rows come from the file from here on."""
        self._machine.drop_pending()

    def feed_row_after(self, step: int | None, payload: bytes) -> None:
        """Decode a serialized history record of a ``.wandb`` file if its step is greater."""
        self._rows.flush_plain()
        history = self._parse(payload).history
        if step is None or history.step.num > step:
            self._rows.add_history(history)

    # -- blocks ---------------------------------------------------------------------------

    @property
    def has_new_axes(self) -> bool:
        """Whether keys have got another x axis since the last `info`."""
        return self._axes_told < len(self.run.axes.definitions)

    @property
    def points(self) -> int:
        """Points since the last `take`."""
        return self._rows.points

    @property
    def undecodable(self) -> list[int]:
        """Sizes in bytes of rows that `feed` could not decode; the caller clears the list."""
        return self._rows.undecodable

    def take(self, keep_points: bool = True) -> Iterator[Item]:
        """Yield the items since the last call.

        Args:
            keep_points: False yields series without points; their keys are still needed, because
                the order of keys decides names.
        """
        yield from self._rows.take(keep_points)

    def info(self) -> RunInfo:
        """Return the run as known so far."""
        self.changed = False
        self._axes_told = len(self.run.axes.definitions)
        self._rows.fold()
        summary, last = self._rows.summary, self._rows.last
        return self.run.info(summary.tree(), last, summary.carried(last))

    def _apply_held_summary(self) -> None:
        if self._held_summary is not None:
            held, self._held_summary = self._held_summary, None
            self._feed_record(self._parse(held))
