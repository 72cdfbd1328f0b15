"""Writes one W&B run into MLflow, by the rules of `mapping`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.metric_rules import MetricRules
from mlflow_wandb_plugin.core.mlflow_terms import PARENT_TAG
from mlflow_wandb_plugin.core.model import (
    ArtifactRef,
    Checkpoint,
    FileRef,
    RowObjects,
    RunInfo,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.mapping import from_wandb_mirror, to_mlflow
from mlflow_wandb_plugin.mlflow_access.point_blocks import BulkWriter
from mlflow_wandb_plugin.targets.mlflow import restored_parents
from mlflow_wandb_plugin.targets.mlflow.batches import Batches
from mlflow_wandb_plugin.targets.mlflow.client import Client
from mlflow_wandb_plugin.targets.mlflow.files.losses import Losses
from mlflow_wandb_plugin.targets.mlflow.files.restored_files import RestoredFiles
from mlflow_wandb_plugin.targets.mlflow.files.run_files import RunFiles
from mlflow_wandb_plugin.targets.mlflow.files.run_names import RunNames
from mlflow_wandb_plugin.targets.mlflow.parent_runs import ParentRuns
from mlflow_wandb_plugin.targets.mlflow.run_description import RunDescription
from mlflow_wandb_plugin.targets.mlflow.run_points import MissingPoints, RunPoints
from mlflow_wandb_plugin.targets.mlflow.run_progress import RunProgress
from mlflow_wandb_plugin.targets.mlflow.run_start import seconds_from
from mlflow_wandb_plugin.targets.mlflow.run_steps import DECIDED_TAGS, RunSteps

if TYPE_CHECKING:
    from mlflow.entities import Run, RunTag


class MlflowRunWriter:
    """A `RunWriter`. Points wait in memory until they are many, or a checkpoint comes.

    Args:
        run: the MLflow run to write.
        reopen_tags: identity tags to set on a run that existed before; None for a new run.
        rules: of plugins, for the run's keys.
        secrets: hides secrets in what describes the run.
        bulk: writes many points at once; None where only MLflow's API can.
        secondary: whether another process decides if the run goes on and how it ends; called
            when the run's status would be written.
        parents: keeps the times of the run's parent; None leaves them.
    """

    points_type: type[RunPoints] = RunPoints

    def __init__(
        self,
        client: Client,
        run: Run,
        info: RunInfo,
        reopen_tags: Mapping[str, str] | None,
        rules: MetricRules,
        secrets: Secrets,
        bulk: BulkWriter | None = None,
        secondary: Callable[[], bool] = lambda: False,
        parents: ParentRuns | None = None,
    ) -> None:
        self._client = client
        self._info = info
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self._secondary = secondary
        self._secrets = secrets
        self._rules = rules
        tags = identity.present_tags(run.data.tags)
        self._parents, self._parent_id = parents, tags.get(PARENT_TAG)
        losses = Losses()
        self.losses, self._rewrites = losses.counts, losses.rewrites
        # What is decided when the run is first written, whatever its config says later.
        decided = tags if identity.RUN_ID in tags else reopen_tags or {}
        self._restores = identity.RESTORED in decided
        info = self._shown(info)
        files = RestoredFiles if self._restores else RunFiles
        self._files = files(client, self.run_id, losses, tags, secrets)
        earlier = {} if reopen_tags is None else self._files.load_earlier()
        self._names = RunNames(self._files, run.data, earlier)
        batches = Batches(client, self.run_id, losses)
        self._description = RunDescription(run, batches, self._names, self._files)
        self._steps = RunSteps(decided)
        self._seconds_from = partial(seconds_from, client, run, info, tags)
        self._start_ms = run.info.start_time or to_mlflow.run_time(info.started_ms) or 0
        self._points = self.points_type(
            batches, bulk, self._names, rules, self._steps.axes, self._start_ms, run.data.metrics,
            self._restores,
        )  # fmt: skip
        self._define(info)
        self._note_calls(info)
        self._progress = RunProgress(tags, losses)
        self._ended_logs: set[tuple[str, ...]] = set()
        if reopen_tags is not None:
            kept = {key: decided[key] for key in DECIDED_TAGS if key in decided}
            wanted = {key: tag for key, tag in reopen_tags.items() if key not in DECIDED_TAGS}
            self._reopen(run, wanted | kept)

    @property
    def position(self) -> Mapping[str, int]:
        return self._progress.position

    def _shown(self, info: RunInfo) -> RunInfo:
        """The run as it is to be seen in MLflow."""
        info = to_mlflow.shown(info, self._secrets)
        return from_wandb_mirror.restored(info) if self._restores else info

    def _note_calls(self, info: RunInfo) -> None:
        """Tell what files there are of the run that MLflow's calls have logged to it."""
        has_calls = to_mlflow.has_mlflow_calls(info)
        here = info.config.get(identity.RUN_ID_CONFIG_KEY) == self.run_id
        self._files.note_calls(has_calls, here and not to_mlflow.calls_waited(info))
        self._points.note_calls(has_calls)

    def update(self, info: RunInfo) -> None:
        info = self._shown(info)
        self._define(info)
        self._note_calls(info)
        self._describe(info)
        if info.state == "running":
            self._description.flush_pending()

    def _define(self, info: RunInfo) -> None:
        """Set the steps of the points that come from now on by what is known of the run."""
        if self._steps.define(info.step_definitions):
            self._points.define(self._steps.axes)

    def append(self, series: Series) -> None:
        self._steps.note_rows(series)
        self._points.append(series)

    def add(self, item: FileRef | ArtifactRef | RowObjects) -> None:
        if isinstance(item, RowObjects):
            row = self._points.take_places(item)
            if row.values:
                self._files.add_row(row)
        elif isinstance(item, ArtifactRef):
            self._files.add_artifact(item)
        else:
            self._files.add_file(item)

    def record_loss(self, unreadable: UnreadableRange) -> None:
        self.losses[f"damaged_{unreadable.unit}"] += unreadable.length

    def restart(self, complete: bool) -> Mapping[str, int]:
        self._points.restart()
        if complete:
            self._description.restart()
            self._nest_again()
            self._files.forget_earlier()
            self._names.restart()
            self._points.count_seconds_from(self._seconds_from())
        # The position is reset in MLflow, too: else a kill would leave the rest unread.
        self._description.set_tags(self._progress.restart())
        return {}

    def _nest_again(self) -> None:
        """Nest the run below the parent that its config or sweep names, if it is not there."""
        if self._parents is None or self._parents.is_parent_of(self._info, self._parent_id):
            return
        self._parent_id = self._parents.parent_of(self._info, self.experiment_id)
        if self._parent_id is not None:
            self._description.set_tags({PARENT_TAG: self._parent_id})

    def checkpoint(self, mark: Checkpoint) -> None:
        self._points.release()
        if mark.rows_too:
            self._points.flush()
            if not self._files.save_rows():
                self._files.save_losses()
                self._progress.hold(mark)
                return
            self._description.set_tags(self._files.tags)
        written = self._client.client.shares_transactions or self._progress.is_due
        if written:
            self._points.flush(then=[partial(self._log_position, mark)])
            self._description.remember(self._position_tags(mark))
        else:
            self._points.flush()
        self._progress.reach(mark, written)

    def finish(self, info: RunInfo, complete: bool) -> None:
        self._points.release()
        hidden = to_mlflow.hidden_params(info, to_mlflow.shown(info, self._secrets))
        info = self._shown(info)
        self._define(info)
        self._describe(info)
        self._description.remove_stale(info)
        self._rewrites["secret_hidden"] = hidden
        self._count_rewrites()
        self._rewrites["time"] = to_mlflow.lost_run_times(info)
        # Of a run that goes on, or a log that was read before, too.
        self._files.summary.update(info.summary)
        self._files.add_summary_points(self._points.of_summary)
        self._files.finish(info)
        self._names.save()
        if self._restores:
            self._nest(info)
        steps: list[Callable[[], object]] = [self._description.log_pending, self._log_counts]
        status = to_mlflow.STATUS[info.state]
        if status != "RUNNING" and not self._secondary():
            end_ms = to_mlflow.run_time(info.ended_ms)
            end = (self._client.client.set_terminated, self.run_id, status, end_ms)
            steps.append(partial(self._client.call, *end))
        if status != "RUNNING" and self._parents is not None:
            widening = self._parents.widening(info, self._start_ms, self._parent_id)
            steps += [widening] if widening is not None else []
        self._write_end(info, complete, steps)
        self._description.remember(self._count_tags())
        self._description.drop_pending()

    def _nest(self, info: RunInfo) -> None:
        """Nest the run below its parent, and its children below it: whichever came later."""
        parent = restored_parents.parent_of(self._client, info)
        if parent is not None:
            self._description.set_tags({PARENT_TAG: parent})
        if self._parents is not None:
            restored_parents.adopt_children(self._client, info, self.run_id)

    def close(self) -> None:
        self._files.close()

    def _reopen(self, run: Run, tags: Mapping[str, str]) -> None:
        """Set the identity tags of a run that existed, but its origin, and let it run again."""
        wanted = {key: value for key, value in tags.items() if key != identity.ORIGIN}
        if identity.ORIGIN not in identity.present_tags(run.data.tags):
            wanted[identity.ORIGIN] = tags[identity.ORIGIN]
        self._description.reopen(wanted)
        if run.info.status != "RUNNING" and not self._secondary():
            self._client.call(self._client.client.update_run, self.run_id, status="RUNNING")

    def _describe(self, info: RunInfo) -> None:
        self._description.update(info)
        if info.state != "running" and info.segments not in self._ended_logs:
            # Each log of a resumed run has a summary of its own.
            self._ended_logs.add(info.segments)
            self._points.append_summary(info)
            self._files.summary.update(info.summary)

    def _log_position(self, mark: Checkpoint) -> None:
        """Save losses first: nothing before ``mark`` is read again."""
        self._files.save_losses()
        self._description.log_tags(self._position_tags(mark))

    def _position_tags(self, mark: Checkpoint) -> list[RunTag]:
        return self._description.changed_tags(self._progress.tags_at(mark) | self._steps.tags)

    def _log_counts(self) -> None:
        """Called after the steps that may add losses."""
        self._files.save_losses()
        self._description.log_tags(self._count_tags())

    def _count_rewrites(self) -> None:
        """Count the names that were changed to fit, and what plugins' rules changed or dropped."""
        self._rewrites["name"] = self._names.count_rewritten()
        self._rewrites.update(self._rules.counts())

    def _count_tags(self) -> list[RunTag]:
        return self._description.changed_tags(self._progress.counts() | self._files.tags)

    def _write_end(
        self, info: RunInfo, complete: bool, before: Sequence[Callable[[], object]] = ()
    ) -> None:
        """Write all points, then take the steps ``before``, then log the position and whether the
        run is complete."""
        last = self._progress.last_tags(info, complete) | self._steps.tags
        tags = self._description.changed_tags(last)
        self._points.flush(then=[*before, partial(self._description.log_tags, tags)])
        self._description.remember(tags)


class AdoptedRunWriter(MlflowRunWriter):
    """Completes a run that another tool writes, too (MosaicML Composer logs only some points):
    adds missing points, files and W&B's tags, and leaves the name, params, status and end."""

    points_type = MissingPoints

    def update(self, info: RunInfo) -> None:
        self._define(info)
        all_tags = to_mlflow.run_tags(to_mlflow.shown(info, self._secrets))
        tags = {key: tag for key, tag in all_tags.items() if _is_of_wandb(key)}
        named = {self._names.tags.name((key,)): tag for key, tag in tags.items()}
        self._names.save()
        self._description.set_tags(named)

    def finish(self, info: RunInfo, complete: bool) -> None:
        self._points.release()
        self.update(info)
        self._count_rewrites()
        self._files.summary.update(info.summary)
        self._files.finish(info)
        self._names.save()
        self._write_end(info, complete, [self._log_counts])
        self._description.remember(self._count_tags())

    def _reopen(self, run: Run, tags: Mapping[str, str]) -> None:
        self._description.reopen(tags)


def _is_of_wandb(tag: str) -> bool:
    """Whether only W&B knows what the tag says; another tool writes the others."""
    return identity.is_of_package(tag) or tag == identity.GROUP
