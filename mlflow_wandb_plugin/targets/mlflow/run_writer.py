"""Writes one run into MLflow, by the rule book."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Checkpoint,
    FileRef,
    RowObjects,
    RunInfo,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.mapping import names, system_metrics, to_mlflow
from mlflow_wandb_plugin.mapping.names import (
    Limits,
    Namer,
)
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.point_blocks import BulkWriter
from mlflow_wandb_plugin.targets.mlflow.points import Batches, PointWriter
from mlflow_wandb_plugin.targets.mlflow.run_files import POINT_LOSS, RunFiles
from mlflow_wandb_plugin.targets.mlflow.step_axis import StepAxis

if TYPE_CHECKING:
    from mlflow.entities import Param, Run, RunTag


MARK_S = 2.0
"""Where the position costs a request of its own it is not written more often than this."""


class MlflowRunWriter:
    """A `RunWriter`. Points wait in memory until a batch is full or a checkpoint comes.

    Args:
        reopen_tags: identity tags to put on a run that existed; None for a new run.
        bulk: the way into MLflow's own database; None for its API.
        secondary: whether another process says whether the run goes on and how it ends; asked
            when that is to be written.
    """

    def __init__(
        self,
        client: Client,
        run: Run,
        info: RunInfo,
        reopen_tags: Mapping[str, str] | None,
        bulk: BulkWriter | None = None,
        secondary: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client = client
        self._limits = Limits.installed()
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self._start_ms: int = run.info.start_time or info.started_ms or 0
        self._tags: dict[str, str] = dict(run.data.tags)
        self._params: dict[str, str] = dict(run.data.params)
        self._status = run.info.status
        self._step_metric = self._decided_step_metric(reopen_tags or {})
        self._axis = StepAxis(self._step_metric)
        self._secondary = secondary
        self.position: dict[str, int] = identity.read_numbers(self._tags, identity.POSITION)
        self._rows: dict[str, int] = identity.read_numbers(self._tags, identity.ROWS)
        self.losses: Counter[str] = Counter()
        self.rewrites: Counter[str] = Counter()
        self._files = RunFiles(client, self.run_id, self.losses, self.rewrites, self._tags)
        self._before = dict(self._tags)
        metrics, params = ({}, {}) if reopen_tags is None else self._files.take_up()
        self._names = Namer(self._limits.key, metrics, run.data.metrics)
        self._param_names = Namer(self._limits.key, params, run.data.params)
        self._tag_names = Namer(self._limits.key)
        self._saved_names = len(self._names.renamed)
        self._batches = Batches(client, self.run_id, self._files, self.losses)
        self._points = PointWriter(
            client, self.run_id, self._batches, self._limits.batch_metrics, bulk
        )
        self._held_mark: Checkpoint | None = None
        self._marked_s = time.monotonic()
        self._pending_params: list[Param] = []
        self._pending_tags: list[RunTag] = []
        self._ended_logs: set[tuple[str, ...]] = set()
        self._rewritten_texts: set[tuple[str, str, str]] = set()
        if reopen_tags is not None:
            self._reopen(reopen_tags)

    # -- what the run is ------------------------------------------------------------------

    def update(self, info: RunInfo) -> None:
        self._describe(info)
        if info.state == "running":
            self.flush_pending()

    def flush_pending(self) -> None:
        if self._pending_params or self._pending_tags:
            self._client.batched([self._log_pending])
            self._pending_params, self._pending_tags = [], []

    def _log_pending(self) -> None:
        self._log_params(self._pending_params)
        self._log_tags(self._pending_tags)

    def _describe(self, info: RunInfo) -> None:
        """Note what params and tags the run is to get. Those of a run that has ended go with its
        end, which is near. Its name is changed at once."""
        name = to_mlflow.run_name(info)
        if self._tags.get("mlflow.runName") != name:
            self._client.call(self._client.client.update_run, self.run_id, name=name)
            self._tags["mlflow.runName"] = name
        wanted = {
            self._tag_names.name((key,)): value for key, value in to_mlflow.run_tags(info).items()
        }
        wanted[identity.RUN_PATH] = info.path
        if info.entity:
            wanted[identity.ENTITY] = info.entity
        self._remove_wandb_tags(wanted)
        if info.state != "running" and info.segments not in self._ended_logs:
            self._ended_logs.add(info.segments)
            self._end_of_log(info)
        params, tags = self._new_params(info), self._changed_tags(wanted)
        self._pending_params += params
        self._pending_tags += tags
        self._note(tags, params)

    def _end_of_log(self, info: RunInfo) -> None:
        """Each log of a resumed run has a summary of its own: later ones add to it."""
        for key, (value, step, at) in to_mlflow.summary_points(info, self._step_metric).items():
            self._append_points(self._names.name(key), (value,), (at,), (step,))
        self._files.add_summary(info.summary)

    def _new_params(self, info: RunInfo) -> list[Param]:
        from mlflow.entities import Param

        new: dict[str, str] = {}
        for path, whole in to_mlflow.params(info).items():
            name = self._param_names.name(path)
            value = self._fitting("param", name, whole, self._limits.param_value)
            if name not in self._params:
                new.setdefault(name, value)
        return [Param(name, value) for name, value in new.items()]

    def _log_params(self, params: Sequence[Param]) -> None:
        for start in range(0, len(params), self._limits.batch_params):
            self._batches.log("params", list(params[start : start + self._limits.batch_params]))

    def _set_tags(self, wanted: Mapping[str, str]) -> None:
        changed = self._changed_tags(wanted)
        self._log_tags(changed)
        self._note(changed)

    def _changed_tags(self, wanted: Mapping[str, str]) -> list[RunTag]:
        """Those of ``wanted`` that the run does not have."""
        from mlflow.entities import RunTag

        changed: list[RunTag] = []
        for key, whole in wanted.items():
            value = self._fitting("tag", key, whole, self._limits.tag_value)
            if value != whole:
                self._files.keep_text(key, whole)
            if self._tags.get(key) != value:
                changed.append(RunTag(key, value))
        return changed

    def _log_tags(self, tags: Sequence[RunTag]) -> None:
        for start in range(0, len(tags), self._limits.batch_params):
            self._batches.log("tags", list(tags[start : start + self._limits.batch_params]))

    def _note(self, tags: Sequence[RunTag], params: Sequence[Param] = ()) -> None:
        """The run has these now."""
        self._tags.update((tag.key, tag.value) for tag in tags)
        self._params.update((param.key, param.value) for param in params)

    def _fitting(self, kind: str, name: str, text: str, limit: int) -> str:
        """``text`` as MLflow takes it; a change is counted once, however often it comes."""
        value = names.storable(text)
        for what, changed in (("cut", len(value) > limit), ("text", value != text)):
            if changed and (kind, name, what) not in self._rewritten_texts:
                self._rewritten_texts.add((kind, name, what))
                self.rewrites[f"{kind}_{what}"] += 1
        return value[:limit]

    def _remove_wandb_tags(self, wanted: Mapping[str, str]) -> None:
        """A W&B tag that was taken off the run goes here too."""
        gone = [key for key in self._tags if key.startswith("wandb.tag.") and key not in wanted]
        if gone:
            self.flush_pending()
        for key in gone:
            self._delete_tag(key)
            del self._tags[key]

    # -- points ---------------------------------------------------------------------------

    def append(self, series: Series) -> None:
        if series.kind == "system":
            self._append_system(series)
        elif self._step_metric:
            self._append_all(self._axis.add(series))
        else:
            self._append_history(series)

    def _append_all(self, ready: Iterable[Series]) -> None:
        for series in ready:
            self._append_history(series)

    def _append_history(self, series: Series) -> None:
        name = self._names.name(series.key)
        self._append_points(name, series.values, series.timestamps_ms, series.steps)

    def _append_points(
        self, name: str, values: Sequence[float], times: Sequence[int], steps: Sequence[int]
    ) -> None:
        self._points.append(name, values, times, steps)
        if self._points.full:
            self._flush()

    def _append_system(self, series: Series) -> None:
        """System points step by whole seconds since the run's start: increasing, and the same
        whoever computes them, also when the run was resumed elsewhere."""
        named = [system_metrics.system_metric(series.key[0], value) for value in series.values]
        if named:
            steps = [max(0, at - self._start_ms) // 1000 for at in series.timestamps_ms]
            values = [scaled for _, scaled in named]
            self._append_points(
                self._names.name((named[0][0],)), values, list(series.timestamps_ms), steps
            )

    def _flush(self) -> None:
        self._save_names()
        self._points.flush()

    # -- files and the rest of rows -------------------------------------------------------

    def add(self, item: FileRef | ArtifactRef | RowObjects) -> None:
        if isinstance(item, RowObjects):
            self._files.add_row(item)
        elif isinstance(item, ArtifactRef):
            self._files.add_artifact(item)
        else:
            self._files.add_file(item)

    def record_loss(self, unreadable: UnreadableRange) -> None:
        self.losses[f"damaged_{unreadable.unit}"] += unreadable.length

    def restart(self) -> Mapping[str, int]:
        self._before.pop(identity.LOSSES, None)
        return {}

    # -- progress and the end -------------------------------------------------------------

    def checkpoint(self, mark: Checkpoint) -> None:
        self._append_all(self._axis.release())
        self._save_names()
        if mark.rows_too:
            self._points.flush()
            if not self._files.save_rows():
                self._files.save_losses()
                self._held_mark = mark
                return
            self._set_tags(self._files.tags)
        if self._client.shares_transactions or time.monotonic() > self._marked_s + MARK_S:
            self._points.flush(then=[partial(self._move, mark)])
            self._marked_s = time.monotonic()
            self._note(self._moved(mark))
        else:
            self._points.flush()
        self._held_mark = None
        self.position[mark.segment] = mark.position

    def _move(self, mark: Checkpoint) -> None:
        """What was lost before ``mark`` is written out first; else it would not come again."""
        self._files.save_losses()
        self._log_tags(self._moved(mark))

    def _moved(self, mark: Checkpoint) -> list[RunTag]:
        moved = self.position | {mark.segment: mark.position}
        return self._changed_tags({identity.POSITION: self._numbers(moved)})

    def finish(self, info: RunInfo, complete: bool) -> None:
        self._append_all(self._axis.release())
        self._describe(info)
        self.rewrites["name"] = sum(
            1
            for namer in (self._names, self._param_names, self._tag_names)
            for key in namer.renamed.values()
            if _rewritten(key, namer)
        )
        self._files.finish(info)
        self._save_names(params=True)
        steps: list[Callable[[], object]] = [self._log_pending, self._log_counts]
        status = to_mlflow.STATUS[info.state]
        if status != "RUNNING" and not self._secondary():
            steps.append(partial(self._terminate, status, info.ended_ms))
        self._remember(info, complete, steps)
        self._note(self._counts())
        self._pending_params, self._pending_tags = [], []

    def _log_counts(self) -> None:
        """The steps before may have added to what was lost."""
        self._files.save_losses()
        self._log_tags(self._counts())

    def _counts(self) -> list[RunTag]:
        tags = {
            identity.LOSSES: json.dumps(dict(sorted(self._all_losses().items()))),
            identity.REWRITES: json.dumps(dict(sorted(self._all_rewrites().items()))),
        }
        return self._changed_tags(tags | self._files.tags)

    def _remember(
        self, info: RunInfo, complete: bool, before: Sequence[Callable[[], object]] = ()
    ) -> None:
        """The last thing written, behind the last points: how far the run has been carried, and
        whether it is whole.

        Args:
            before: steps to be taken first.
        """
        last = self._changed_tags(self._last_tags(info, complete))
        self._points.flush(then=[*before, partial(self._log_tags, last)])
        self._note(last)
        self._held_mark = None

    def _last_tags(self, info: RunInfo, complete: bool) -> dict[str, str]:
        if self._held_mark is not None:
            self.position[self._held_mark.segment] = self._held_mark.position
        self._rows = identity.joined_rows(self._rows, info.rows)
        if complete:
            self.position = identity.ended(self.position, info.segments)
            return {
                identity.STATE: "complete",
                identity.POSITION: self._numbers(self.position),
                identity.ROWS: self._numbers(self._rows),
            }
        moved = {identity.POSITION: self._numbers(self.position)} if self.position else {}
        return moved | ({} if info.state == "running" else {identity.STATE: "partial"})

    def _terminate(self, status: str, ended_ms: int | None) -> None:
        self._client.call(self._client.client.set_terminated, self.run_id, status, ended_ms)

    def _delete_tag(self, key: str) -> None:
        """Where another process writes the run, too, the tag may be gone."""
        try:
            self._client.call(self._client.client.delete_tag, self.run_id, key)
        except RefusedError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def close(self) -> None:
        self._files.close()

    def _all_losses(self) -> Counter[str]:
        """Ours, and those of logs that were complete before and did not come again."""
        before = Counter(identity.read_numbers(self._before, identity.LOSSES))
        # Refused points are written out one by one: ours are counted from there on.
        points = max(before.pop(POINT_LOSS, 0), self.losses[POINT_LOSS])
        complete = self._before.get(identity.STATE) == "complete"
        total = before + self.losses if complete else before | self.losses
        total[POINT_LOSS] = points
        return +total

    def _all_rewrites(self) -> Counter[str]:
        """Names, config and tags come again with each log: nothing is to be added up."""
        return Counter(identity.read_numbers(self._before, identity.REWRITES)) | self.rewrites

    def _reopen(self, tags: Mapping[str, str]) -> None:
        """Take up a run that existed: its origin stays, its status says that it goes on."""
        decided = (identity.ORIGIN, identity.STEP_METRIC)
        keep = {key: value for key, value in tags.items() if key not in decided}
        if self._step_metric:
            keep[identity.STEP_METRIC] = self._step_metric
        if identity.ORIGIN not in self._tags:
            keep[identity.ORIGIN] = tags[identity.ORIGIN]
        self._set_tags(keep)
        if self._status != "RUNNING" and not self._secondary():
            self._client.call(self._client.client.update_run, self.run_id, status="RUNNING")

    def _decided_step_metric(self, reopen_tags: Mapping[str, str]) -> str:
        """As it was when we first wrote the run, whatever the W&B config says by now."""
        tags = self._tags if identity.RUN_ID in self._tags else reopen_tags
        return tags.get(identity.STEP_METRIC, "")

    def _save_names(self, params: bool = False) -> None:
        """Originals of rewritten names reach MLflow before the points under them."""
        if params or len(self._names.renamed) != self._saved_names:
            self._files.save_names(self._names.renamed, self._param_names.renamed)
            self._saved_names = len(self._names.renamed)

    def _numbers(self, numbers: Mapping[str, int]) -> str:
        return identity.write_numbers(numbers, self._limits.tag_value)


def _rewritten(key: list[str], namer: Namer) -> bool:
    return namer.name(tuple(key)) != ".".join(key)
