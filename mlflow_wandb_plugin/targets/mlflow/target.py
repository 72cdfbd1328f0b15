"""MLflow as a target: any tracking URI."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Origin, Twin
from mlflow_wandb_plugin.core.model import Key, RunInfo
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetUnavailableError, UsageError
from mlflow_wandb_plugin.mapping import names, run_documents, to_mlflow
from mlflow_wandb_plugin.targets.mlflow.adopted_writer import AdoptedRunWriter
from mlflow_wandb_plugin.targets.mlflow.claims import PENDING, settle, standing
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.compare import RunComparison
from mlflow_wandb_plugin.targets.mlflow.point_blocks import BulkWriter
from mlflow_wandb_plugin.targets.mlflow.rest.rest_points import open_rest
from mlflow_wandb_plugin.targets.mlflow.run_writer import MlflowRunWriter
from mlflow_wandb_plugin.targets.mlflow.sql.bulk_points import SqlBulk, WritePath, open_bulk

if TYPE_CHECKING:
    from mlflow.entities import Run


C = TypeVar("C")
T = TypeVar("T")

PARENT_TAG = "mlflow.parentRunId"
CLAIMS = 10


class MlflowTarget:
    """Replicates W&B runs into MLflow.

    Args:
        uri: an MLflow tracking URI; None means MLflow's own default.
        experiment: the experiment's name; ``{entity}`` and ``{project}`` are filled in.
        secondary: whether the runs are also those of another process, which says how they end.
    """

    def __init__(
        self,
        uri: str | None = None,
        experiment: str = "{project}",
        backoff: Backoff | None = None,
        secondary: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client = Client(uri, backoff)
        self._experiment = experiment
        self._experiment_ids: dict[str, str] = {}
        self._parents: dict[tuple[str, str, str], str] = {}
        self._bare: dict[tuple[str, str], bool] = {}
        self._created: set[str] = set()
        self._leave_dual = False
        self._fixed_experiment: str | None = None
        self._secondary = secondary
        self.use_write_path("auto")
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        return str(self._client.uri)

    def experiment_id(self, info: RunInfo) -> str:
        """The experiment that ``info`` belongs to, created if need be."""
        if self._fixed_experiment is not None:
            return self._fixed_experiment
        name = to_mlflow.experiment_name(self._experiment, info.entity, info.project)
        if self.uri.startswith("databricks") and not name.startswith("/"):
            raise UsageError(
                f"Databricks wants an absolute experiment path, not {name!r}: "
                "pass --experiment '/Users/you@example.com/{project}'"
            )
        with self._lock:
            if name not in self._experiment_ids:
                tags = to_mlflow.experiment_tags(info.entity, info.project)
                self._experiment_ids[name] = self._client.experiment_id(name, tags)
            return self._experiment_ids[name]

    def write_into(self, experiment_id: str) -> None:
        """Write all runs into this experiment, whatever their project."""
        self._fixed_experiment = experiment_id

    def use_write_path(self, path: WritePath) -> None:
        """How points are written: "bulk" into the database behind MLflow, "api" by MLflow's own
        calls, "auto" in bulk where that can be done, else in raw requests to its server.

        Raises:
            UsageError: "bulk", and it cannot be done here.
        """
        if path == "bulk":
            sql: SqlBulk | None = open_bulk(self._client.mlflow)
        else:
            sql = None if path == "api" else _or_none(open_bulk, self._client.mlflow)
        self._client.use_sql(None if sql is None else sql.transactions)
        self._bulk: BulkWriter | None = sql
        if path == "auto" and sql is None:
            self._bulk = _or_none(open_rest, self._client)
            if self._bulk is not None:
                self._client.use_requests()

    def curve(self, run_id: str, key: Key) -> list[tuple[int, float]]:
        """A metric's points by step, for a report's curve; empty where there are none."""
        name = names.legal_name(".".join(key), names.Limits.installed().key)
        try:
            history = self._client.call(self._client.client.get_metric_history, run_id, name)
        except RefusedError:
            return []
        points = sorted((metric.step, metric.value) for metric in history)
        return points[:: max(1, len(points) // 120)]

    def _known_experiment(self, info: RunInfo) -> str | None:
        """The experiment that ``info`` belongs to, if it exists: looking creates nothing."""
        name = to_mlflow.experiment_name(self._experiment, info.entity, info.project)
        if self._fixed_experiment is not None or name in self._experiment_ids:
            return self.experiment_id(info)
        return self._client.find_experiment(name)

    def find(self, info: RunInfo, dual: bool = True) -> Twin | None:
        """The live run that the W&B config names, or that carries the identity tags."""
        self._leave_dual = not dual
        run = self._named_in_config(info) if dual else None
        if run is not None:
            given = info.config.get(identity.GIVEN_RUN_CONFIG_KEY) is True
            return _twin(run, named=True, given=given)
        run = standing(self._client, lambda: self._alike(info))
        if run is None:
            run = next(iter(self._tagged(info, identity.EWM_RUN_ID)), None)
        return _twin(run, named=False) if run is not None else None

    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> MlflowRunWriter:
        tags = identity.identity_tags(info, origin, to_mlflow.MAPPING_VERSION)
        if twin is None:
            run, won = self._create(info, tags)
            if won:
                return MlflowRunWriter(self._client, run, info, None, self._bulk, self._secondary)
            twin = _twin(run, named=False)
        else:
            run = self._client.call(self._client.client.get_run_data, twin.run_id)
        if twin.adopted:
            tags |= {identity.ORIGIN: "dual"}
            return AdoptedRunWriter(self._client, run, info, tags, self._bulk)
        return MlflowRunWriter(self._client, run, info, tags, self._bulk, self._secondary)

    def compare(self, info: RunInfo, twin: Twin) -> RunComparison:
        """A writer that writes nothing and tells what in ``twin`` differs from what it is given."""
        run = self._client.call(self._client.client.get_run, twin.run_id)
        return RunComparison(self._client, run, info)

    def _create(self, info: RunInfo, tags: dict[str, str]) -> tuple[Run, bool]:
        """Create the run, unless somebody else just did; returns it and whether it is ours."""
        parent = self._parent_run(info)
        tags = tags | ({PARENT_TAG: parent} if parent else {})
        experiment, name = self.experiment_id(info), to_mlflow.run_name(info)
        for tag in (identity.RUN_ID, identity.EWM_RUN_ID):
            self._was_bare(experiment, tag)
        with self._lock:
            self._created.add(info.run_id)
        first = self._client.call(
            self._client.client.create_first,
            experiment,
            identity.RUN_ID,
            info.started_ms,
            tags,
            name,
        )
        if first is not None:
            return first, True
        return self._claimed(experiment, info.started_ms, tags, name, lambda: self._alike(info))

    def _claimed(
        self,
        experiment: str,
        start_ms: int | None,
        tags: dict[str, str],
        name: str,
        alike: Callable[[], Sequence[Run]],
    ) -> tuple[Run, bool]:
        """The one run of those who create it at once, and whether it is ours.

        Raises:
            TargetUnavailableError: they gave way to each other, again and again.
        """
        for _ in range(CLAIMS):
            run = self._client.call(
                self._client.client.create_run,
                experiment,
                start_time=start_ms,
                tags=tags | {identity.CLAIM: PENDING},
                run_name=name,
            )
            winner = settle(self._client, run, alike)
            if winner is not None:
                return winner, winner.info.run_id == run.info.run_id
        raise TargetUnavailableError(f"MLflow: others create the run {name!r} at once; try again")

    def _alike(self, info: RunInfo) -> list[Run]:
        found = self._tagged(info, identity.RUN_ID)
        if not self._leave_dual:
            return found
        return [run for run in found if run.data.tags.get(identity.ORIGIN) != "dual"]

    def _parent_run(self, info: RunInfo) -> str | None:
        """The run that ``info`` is nested below: the one its config names, or that of its sweep or
        group, which is created with the first of its runs."""
        named = info.config.get(identity.PARENT_RUN_KEY)
        if isinstance(named, str) and named:
            return named
        group = info.config.get(identity.PARENT_GROUP_KEY)
        if info.sweep_id:
            name = f"sweep {info.facts.get('sweep_name') or info.sweep_id}"
            return self._common_parent(info, identity.SWEEP, info.sweep_id, name)
        if isinstance(group, str) and group:
            return self._common_parent(info, identity.PARENT_GROUP, group, group)
        return None

    def _common_parent(self, info: RunInfo, tag: str, value: str, name: str) -> str:
        experiment = self.experiment_id(info)
        with self._lock:
            known = self._parents.get((experiment, tag, value))
            if known is None:
                known = self._find_parent(experiment, tag, value) or self._create_parent(
                    experiment, info, tag, value, name
                )
                self._parents[experiment, tag, value] = known
            return known

    def _find_parent(self, experiment: str, tag: str, value: str) -> str | None:
        found = standing(
            self._client,
            lambda: self._client.call(self._client.client.runs_with_tag, experiment, tag, value),
        )
        return None if found is None else str(found.info.run_id)

    def _create_parent(
        self, experiment: str, info: RunInfo, tag: str, value: str, name: str
    ) -> str:
        created, won = self._claimed(
            experiment,
            info.started_ms,
            {tag: value, identity.PROJECT: info.project},
            name,
            lambda: self._client.call(self._client.client.runs_with_tag, experiment, tag, value),
        )
        run_id = str(created.info.run_id)
        if not won:
            return run_id
        config = info.facts.get("sweep_config") if tag == identity.SWEEP else None
        if config:
            self._client.call(
                self._client.client.log_dict, run_id, config, run_documents.SWEEP_CONFIG_FILE
            )
        self._client.call(self._client.client.set_terminated, run_id)
        return run_id

    def _named_in_config(self, info: RunInfo) -> Run | None:
        run_id = info.config.get("mlflow_run_id")
        if not isinstance(run_id, str) or not run_id:
            return None
        try:
            run = self._client.call(self._client.client.get_run, run_id)
        except RefusedError as error:
            if error.code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        tags = run.data.tags
        if run.info.lifecycle_stage != "active":
            return None
        return run if identity.RUN_ID not in tags or identity.same_run(info, tags) else None

    def _tagged(self, info: RunInfo, tag: str) -> list[Run]:
        """Runs of the project's experiment that carry the W&B run's id in ``tag``."""
        experiment = self._known_experiment(info)
        if experiment is None or self._is_new(info, experiment, tag):
            return []
        runs = self._client.call(self._client.client.runs_with_tag, experiment, tag, info.run_id)
        if tag == identity.EWM_RUN_ID:
            return runs
        return [run for run in runs if identity.same_run(info, run.data.tags)]

    def _is_new(self, info: RunInfo, experiment: str, tag: str) -> bool:
        """Whether no run can carry the W&B run's id in ``tag``: none of the experiment carried any
        at the first look, and we have not created it since. One that somebody else has created
        since is met when we create ours."""
        return info.run_id not in self._created and self._was_bare(experiment, tag)

    def _was_bare(self, experiment: str, tag: str) -> bool:
        with self._lock:
            if (experiment, tag) not in self._bare:
                self._bare[experiment, tag] = not self._client.call(
                    self._client.client.any_with_tag, experiment, tag
                )
            return self._bare[experiment, tag]


def _or_none(open_path: Callable[[C], T], client: C) -> T | None:
    try:
        return open_path(client)
    except UsageError:
        return None


def _twin(run: Run, named: bool, given: bool = False) -> Twin:
    tags = run.data.tags
    ours = identity.RUN_ID in tags
    return Twin(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        origin=tags.get(identity.ORIGIN, "dual" if named else ""),
        state=tags.get(identity.STATE, ""),
        position=identity.read_numbers(tags, identity.POSITION),
        rows=identity.read_numbers(tags, identity.ROWS),
        foreign=not ours and not named,
        adopted=named and not ours and not given,
    )
