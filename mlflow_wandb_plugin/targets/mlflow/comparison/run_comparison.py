"""Compares an MLflow run with what a backfill would write into it now, value by value.

The run is written once more by the backfill's own writer, through a client that records instead of
writing. What it has recorded at the end is compared with what MLflow has, so that the logs of a
resumed run are joined as a backfill joins them.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.metric_rules import MetricRules
from mlflow_wandb_plugin.core.mlflow_terms import PARENT_TAG
from mlflow_wandb_plugin.core.model import ArtifactRef, FileRef, RowObjects, RunInfo
from mlflow_wandb_plugin.core.protocols import Difference, Side
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.mapping import documents, to_mlflow
from mlflow_wandb_plugin.mapping.documents import CONFIG_FILE, SUMMARY_FILE
from mlflow_wandb_plugin.targets.mlflow.client import Client
from mlflow_wandb_plugin.targets.mlflow.comparison.differences import (
    NO_VERSION,
    NOT_KEPT,
    end_difference,
    name_difference,
    param_differences,
    parent_difference,
    start_difference,
    tag_difference,
)
from mlflow_wandb_plugin.targets.mlflow.comparison.expected_run import (
    ExpectedRun,
    FileContent,
    PointColumns,
    RecordedPoints,
    RecordingClient,
)
from mlflow_wandb_plugin.targets.mlflow.comparison.points import (
    different_points,
    latest_difference,
    point_differences,
)
from mlflow_wandb_plugin.targets.mlflow.comparison.stored_files import StoredFiles
from mlflow_wandb_plugin.targets.mlflow.comparison.summary_values import (
    REASON,
    SummaryValues,
)
from mlflow_wandb_plugin.targets.mlflow.model_copies import ModelCopy, find_model
from mlflow_wandb_plugin.targets.mlflow.parent_runs import ParentRuns
from mlflow_wandb_plugin.targets.mlflow.run_start import (
    decided_tags,
    from_server,
    seconds_from,
    two_clocks,
)
from mlflow_wandb_plugin.targets.mlflow.run_steps import DECIDED_TAGS
from mlflow_wandb_plugin.targets.mlflow.run_writer import MlflowRunWriter

if TYPE_CHECKING:
    from mlflow.entities import Run

KNOWN_TO_THE_SERVER = "W&B's server and a log know the summary and metrics differently"
NO_IMAGES = "the log has no longer the images of the table"
TOLD_POINTS = 50
"""Points of one metric that are told one by one."""
DECISIVE = (identity.RUN_ID, *DECIDED_TAGS, identity.POSITION, identity.RESTORED)
"""Tags that decide how a run is written; the other tags are compared."""
COMPARED_HIDDEN = (identity.NAME, identity.CONFIG_CHANGED, identity.PARENT_GROUP)
"""Hidden tags of ours that describe the run; the others say how far it is replicated."""


class RunComparison(MlflowRunWriter):
    """A `RunWriter` that writes nothing and finds what differs; see `core.protocols`."""

    def __init__(
        self,
        client: Client,
        run: Run,
        info: RunInfo,
        rules: MetricRules,
        secrets: Secrets,
        parents: ParentRuns,
    ) -> None:
        from mlflow.entities import Run, RunData, RunTag

        self.checked: Counter[str] = Counter()
        self.differences: list[Difference] = []
        self._target = client
        self._target_parents = parents
        self._run = run
        self._expected = ExpectedRun()
        self._other_rows: list[tuple[int, int]] = []
        recording = copy.copy(client)
        recording.client = RecordingClient(client.mlflow, self._expected)
        self._tags = tags = identity.present_tags(run.data.tags)
        decisive = [RunTag(key, tags[key]) for key in DECISIVE if key in tags]
        empty = Run(run.info, RunData(tags=decisive))
        bulk = RecordedPoints(self._expected)
        super().__init__(recording, empty, info, None, rules, secrets, bulk)
        start_ms = seconds_from(client, run, self._shown(info), tags)
        self._points.count_seconds_from(start_ms)

    def add(self, item: FileRef | ArtifactRef | RowObjects) -> None:
        super().add(item)
        if isinstance(item, RowObjects):
            self._other_rows.append((item.timestamp_ms, item.step))

    def finish(self, info: RunInfo, complete: bool) -> None:
        super().finish(info, complete)
        self._last = self._shown(info)

    def compare(self) -> None:
        """Compare all that was recorded; call it once, after the last item."""
        info = self._last
        self._compare_attributes(info)
        self._compare_params(info)
        self._compare_tags(info)
        self._compare_parent(info)
        self._compare_inputs(info)
        self._compare_points(info)
        self._compare_files(info)
        for model, files in self._expected.models.values():
            self._compare_model(model, files)

    def differs(self, difference: Difference | None) -> None:
        """Record a difference, if it is one."""
        if difference is not None:
            self.differences.append(difference)

    def _compare_attributes(self, info: RunInfo) -> None:
        wanted, there = self._expected, self._run.info
        self.differs(name_difference(wanted.name, there.run_name, self._tags))
        self.checked["times"] += 1
        self.differs(start_difference(info, there.start_time, self._tags))
        if wanted.status is None:
            return
        self.checked["status"] += 1
        if there.status != wanted.status:
            self.differs(Difference(f"the run's status is {there.status}, not {wanted.status}"))
        self.checked["times"] += 1
        self.differs(end_difference(info, wanted.end_ms, there.end_time, self._tags))

    def _compare_params(self, info: RunInfo) -> None:
        wanted, there = self._expected.params, self._run.data.params
        if wanted:
            self.checked["params"] += len(wanted)
        different = {
            name: (there.get(name), value)
            for name, value in wanted.items()
            if there.get(name) != value
        }
        self.differences += param_differences(info, self._tags, different)
        self._count_alone("params", len(there.keys() - wanted.keys()))

    def _compare_tags(self, info: RunInfo) -> None:
        there = self._tags
        identifying = identity.identity_tags(info, "backfill", to_mlflow.MAPPING_VERSION)
        wanted = identifying | self._expected.tags
        for key in sorted(wanted.keys() | decided_tags(info, there)):
            if key.startswith(identity.HIDDEN) and key not in COMPARED_HIDDEN:
                continue
            self.checked["tags"] += 1
            if there.get(key) != wanted.get(key):
                self.differs(tag_difference(info, key, wanted.get(key), there))

    def _compare_parent(self, info: RunInfo) -> None:
        parent_id = self._tags.get(PARENT_TAG)
        if not self._target_parents.is_parent_of(info, parent_id):
            self.differs(parent_difference(info, parent_id))

    def _compare_inputs(self, info: RunInfo) -> None:
        if not self._expected.inputs:
            return
        run = self._target.call(self._target.mlflow.get_run, self.run_id)
        inputs = run.inputs.dataset_inputs if run.inputs else ()
        there = {(known.dataset.name, known.dataset.digest) for known in inputs}
        names = {name for name, _ in there} if two_clocks(info, self._tags) else ()
        for name, version in self._expected.inputs:
            self.checked["inputs"] += 1
            if (name, version) not in there:
                by_design = NO_VERSION if name in names else ""
                what = f"no input {name}:{version}" if by_design else f"no input {name}"
                self.differs(Difference(what, by_design))

    def _compare_points(self, info: RunInfo) -> None:
        wanted = self._expected.points
        there = self._target.call(self._stored_points)
        two = two_clocks(info, self._tags)
        values: SummaryValues | None = None
        for name in sorted(wanted):
            self.checked["points"] += len(wanted[name].values)
            stored = there.pop(name, None)
            missing, extra = different_points(wanted[name], stored)
            differences = point_differences(name, missing, extra)
            if stored is not None and not differences:
                latest = self._run.data.metrics.get(name)
                self.differs(latest_difference(name, stored, latest))
            if two and differences:
                values = values or self._summary_values(info)
                if values.explain(name, missing, extra):
                    differences = [replace(one, by_design=REASON) for one in differences]
            self._tell_points(differences)
        self._count_alone("metrics", len(there))

    def _summary_values(self, info: RunInfo) -> SummaryValues:
        summary = self._points.of_summary
        return SummaryValues(self._expected.points, summary, self._other_rows, from_server(info))

    def _stored_points(self) -> dict[str, PointColumns]:
        there: dict[str, PointColumns] = {}
        for points in self._target.client.points(self.run_id, list(self._run.data.metrics)):
            there.setdefault(points.name, PointColumns()).extend(points)
        return there

    def _tell_points(self, differences: Sequence[Difference]) -> None:
        """Record the differences of one metric: the first ones each, the others as one."""
        for difference in differences[:TOLD_POINTS]:
            self.differs(difference)
        more = differences[TOLD_POINTS:]
        if more:
            name = more[0].what.partition(":")[0]
            fixable = all(one.fixable for one in more)
            what = f"{name}: {len(more):,} more points differ"
            side: Side = "target" if all(one.only_in == "target" for one in more) else ""
            self.differs(Difference(what, "", fixable, len(more), side))

    def _compare_files(self, info: RunInfo) -> None:
        wanted = self._expected.files
        self.checked["files"] += len(wanted)
        two = two_clocks(info, self._tags)
        stored = StoredFiles(self._target, self._run.info.artifact_uri, two, from_server(info))
        results = stored.compare(wanted)
        for path, result in sorted(results.items()):
            by_design = KNOWN_TO_THE_SERVER if two and path in documents.KNOWN_TO_ONE else ""
            if result == "different" and path in self._files.lacking_images:
                by_design = NO_IMAGES
            if result == "absent":
                self.differs(Difference(f"no file {path}", by_design))
            elif result == "different":
                self.differs(Difference(f"file {path} has another content", by_design))
            elif result == "by design":
                described = path in (CONFIG_FILE, SUMMARY_FILE)
                reason = (
                    NOT_KEPT
                    if described
                    else "W&B's server alone knows the version and the aliases"
                )
                # What the server knows, a replica that was written while it ran does not have.
                side: Side = "" if described or not from_server(info) else "source"
                what = f"file {path} has another content"
                self.differs(Difference(what, by_design=reason, only_in=side))

    def _compare_model(self, wanted: ModelCopy, files: dict[str, FileContent]) -> None:
        self.checked["models"] += 1
        place = self.experiment_id, self.run_id, wanted.first_id
        there = self._target.call(find_model, self._target.mlflow, *place)
        what = f"model {wanted.name}"
        if there is None:
            self.differs(Difference(f"no {what}"))
            return
        known = there.model_type or "", str(there.status), there.params or {}
        if known != (wanted.kind, wanted.status, dict(wanted.params)):
            self.differs(Difference(f"{what} has another type, status or params", fixable=False))
        stored = StoredFiles(self._target, there.artifact_location, False, False)
        for path, result in sorted(stored.compare(files).items()):
            if result != "equal":
                self.differs(Difference(f"file {path} of {what} is {result}", fixable=False))

    def _count_alone(self, kind: str, number: int) -> None:
        if number:
            self.checked[f"{kind} of MLflow alone"] += number
