"""MLflow as a target: any tracking URI."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import Origin, Twin
from mlflow_wandb_plugin.core.mlflow_terms import PARENT_TAG
from mlflow_wandb_plugin.core.model import Key, RunInfo
from mlflow_wandb_plugin.core.protocols import Target, TargetOptions, WritePath
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.mapping import names, to_mlflow
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.compare import RunComparison
from mlflow_wandb_plugin.targets.mlflow.concurrent_creation import create_once, find_settled
from mlflow_wandb_plugin.targets.mlflow.parent_runs import ParentRuns
from mlflow_wandb_plugin.targets.mlflow.point_blocks import BulkWriter
from mlflow_wandb_plugin.targets.mlflow.rest.request_client import RequestClient
from mlflow_wandb_plugin.targets.mlflow.rest.rest_points import open_rest
from mlflow_wandb_plugin.targets.mlflow.run_client import NewRun
from mlflow_wandb_plugin.targets.mlflow.run_search import RunSearch, twin_of
from mlflow_wandb_plugin.targets.mlflow.run_writer import AdoptedRunWriter, MlflowRunWriter
from mlflow_wandb_plugin.targets.mlflow.sql.bulk_points import open_bulk
from mlflow_wandb_plugin.targets.mlflow.sql.sql_client import sql_client

if TYPE_CHECKING:
    from mlflow.entities import Run


class MlflowTarget(Target):
    """Replicates W&B runs into MLflow.

    Args:
        uri: an MLflow tracking URI; None means MLflow's own default.
        secondary: whether another process writes the same runs and decides how they end.

    Raises:
        UsageError: ``options.write_path`` is "bulk", and the database cannot be reached.
    """

    comparable = True
    has_experiments = True

    def __init__(
        self,
        uri: str | None = None,
        options: TargetOptions | None = None,
        backoff: Backoff | None = None,
        secondary: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client = Client(uri, backoff)
        self.uri = self._client.uri
        self._options = options or TargetOptions()
        names = self._options.secret_names
        self._secrets = Secrets.of_setting() if names is None else Secrets(names)
        self._experiment_ids: dict[str, str] = {}
        self._search = RunSearch(self._client)
        self._parents = ParentRuns(self._client)
        self._secondary = secondary
        self._bulk = self._open_write_path(self._options.write_path)
        self._lock = threading.Lock()

    def experiment_id(self, info: RunInfo) -> str:
        """Return the experiment that ``info`` belongs to; create it if need be."""
        if self._options.experiment_id:
            return self._options.experiment_id
        name = to_mlflow.experiment_name(self._options.experiment, info.entity, info.project)
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

    def _open_write_path(self, path: WritePath) -> BulkWriter | None:
        """Open the fastest way to write points; None for MLflow's own calls."""
        client = self._client
        if path == "api":
            return None
        try:
            sql = open_bulk(client.mlflow)
            client.client = sql_client(client.mlflow, sql.transactions) or client.client
            return sql
        except UsageError:
            if path == "bulk":
                raise
        try:
            rest = open_rest(client)
            client.client = RequestClient(client.mlflow)
            return rest
        except UsageError:
            return None

    def curve(self, run_id: str, key: Key) -> list[tuple[int, float]]:
        """A metric's points by step, for a report's curve; empty where there are none."""
        name = names.legal_name(".".join(key), names.Limits.installed().key)
        try:
            history = self._client.call(self._client.mlflow.get_metric_history, run_id, name)
        except RefusedError:
            return []
        points = sorted((metric.step, metric.value) for metric in history)
        return points[:: max(1, len(points) // 120)]

    def find(self, info: RunInfo) -> Twin | None:
        """The active run that the W&B config names, or that has the identity tags."""
        run = self._search.named_in_config(info) if self._options.find_dual_written else None
        if run is not None:
            given = info.config.get(identity.GIVEN_RUN_CONFIG_KEY) is True
            return twin_of(run, named=True, given=given)
        run = find_settled(self._client, lambda: self._candidates(info))
        if run is None:
            run = next(iter(self._tagged(info, identity.EWM_RUN_ID)), None)
        return twin_of(run, named=False) if run is not None else None

    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> MlflowRunWriter:
        info = to_mlflow.shown(info, self._secrets)
        tags = identity.identity_tags(info, origin, to_mlflow.MAPPING_VERSION)
        if twin is None:
            run, won = self._create(info, tags)
            if won:
                return self._writer(MlflowRunWriter, run, info, None)
            twin = twin_of(run, named=False)
        else:
            run = self._client.call(self._client.client.get_run_data, twin.run_id)
        if twin.adopted:
            tags |= {identity.ORIGIN: "dual"}
            return self._writer(AdoptedRunWriter, run, info, tags)
        return self._writer(MlflowRunWriter, run, info, tags)

    def _writer(
        self, kind: type[MlflowRunWriter], run: Run, info: RunInfo, tags: dict[str, str] | None
    ) -> MlflowRunWriter:
        common = self._client, run, info, tags
        return kind(*common, self._secrets, self._bulk, self._secondary)

    def compare(self, info: RunInfo, twin: Twin) -> RunComparison:
        """A writer that writes nothing and tells what in ``twin`` differs from what it is given."""
        run = self._client.call(self._client.mlflow.get_run, twin.run_id)
        return RunComparison(self._client, run, info, self._secrets)

    def _create(self, info: RunInfo, tags: dict[str, str]) -> tuple[Run, bool]:
        """Create the run, unless another process just did; returns it and whether it is ours."""
        experiment = self.experiment_id(info)
        parent = self._parents.parent_of(info, experiment)
        tags = tags | ({PARENT_TAG: parent} if parent else {})
        new = NewRun(experiment, to_mlflow.run_name(info), info.started_ms, tags)
        self._search.prepare_creation(info, experiment)
        first = self._client.call(self._client.client.create_first, new, identity.RUN_ID)
        if first is not None:
            return first, True
        return create_once(self._client, new, lambda: self._candidates(info))

    def _candidates(self, info: RunInfo) -> list[Run]:
        """Runs that replicate ``info``, settled or pending."""
        found = self._tagged(info, identity.RUN_ID)
        if self._options.find_dual_written:
            return found
        return [run for run in found if run.data.tags.get(identity.ORIGIN) != "dual"]

    def _tagged(self, info: RunInfo, tag: str) -> list[Run]:
        """Runs with the W&B run's id in ``tag``; looking does not create their experiment."""
        name = to_mlflow.experiment_name(self._options.experiment, info.entity, info.project)
        if self._options.experiment_id or name in self._experiment_ids:
            experiment: str | None = self.experiment_id(info)
        else:
            experiment = self._client.find_experiment(name)
        return [] if experiment is None else self._search.with_tag(info, experiment, tag)
