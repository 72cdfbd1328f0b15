"""MLflow as a target: any tracking URI."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity, tracking_uri
from mlflow_wandb_plugin.core.identity import Origin, Twin
from mlflow_wandb_plugin.core.metric_rules import MetricRules, without_rules
from mlflow_wandb_plugin.core.mlflow_terms import PARENT_TAG
from mlflow_wandb_plugin.core.model import Key, RunInfo
from mlflow_wandb_plugin.core.protocols import Place, Target, TargetOptions, WriteMethod, WritePath
from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetError, TargetUnavailableError, UsageError
from mlflow_wandb_plugin.mapping import from_wandb_mirror, names, to_mlflow
from mlflow_wandb_plugin.mapping.to_wandb import STEP_METRIC
from mlflow_wandb_plugin.mlflow_access.point_blocks import BulkWriter
from mlflow_wandb_plugin.settings import Settings
from mlflow_wandb_plugin.targets.mlflow.checks import check_credentials, check_place
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.comparison.run_comparison import RunComparison
from mlflow_wandb_plugin.targets.mlflow.concurrent_creation import create_once, find_settled
from mlflow_wandb_plugin.targets.mlflow.experiments import Experiments
from mlflow_wandb_plugin.targets.mlflow.files.losses import Losses, reasons_in
from mlflow_wandb_plugin.targets.mlflow.files.run_files import LOSSES_FILE
from mlflow_wandb_plugin.targets.mlflow.files.uploads import Uploads
from mlflow_wandb_plugin.targets.mlflow.parent_runs import ParentRuns
from mlflow_wandb_plugin.targets.mlflow.rest.request_client import RequestClient
from mlflow_wandb_plugin.targets.mlflow.rest.rest_points import open_rest
from mlflow_wandb_plugin.targets.mlflow.run_client import NewRun
from mlflow_wandb_plugin.targets.mlflow.run_search import RunSearch, twin_of, twin_of_found
from mlflow_wandb_plugin.targets.mlflow.run_steps import decision
from mlflow_wandb_plugin.targets.mlflow.run_writer import AdoptedRunWriter, MlflowRunWriter
from mlflow_wandb_plugin.targets.mlflow.sql.bulk_points import SqlBulk, bulk_obstacle, open_bulk
from mlflow_wandb_plugin.targets.mlflow.sql.sql_client import SqlClient, sql_obstacle

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
        self.viewer = tracking_uri.ui_command(self.uri)
        self._options = options or TargetOptions()
        self._experiments = Experiments(self._client)
        secret_names = self._options.secret_names
        self._secrets = Secrets.of_setting() if secret_names is None else Secrets(secret_names)
        steps = self._options.steps
        self._step_rule = Settings.load().steps if steps is None else steps
        self._checks_places = False
        self._checked_places: set[str] = set()
        self._lock = threading.Lock()
        self._search = RunSearch(self._client)
        self._parents = ParentRuns(self._client)
        self._secondary = secondary
        self._bulk = self._open_write_path(self._options.write_path)

    def experiment_id(self, info: RunInfo) -> str:
        """Return the experiment that ``info`` belongs to; create it if need be."""
        experiment_id = self._options.experiment_id or self._experiment_by_name(info)
        with self._lock:
            if self._checks_places and experiment_id not in self._checked_places:
                check_place(self._client, experiment_id)
                self._checked_places.add(experiment_id)
        return experiment_id

    def _experiment_by_name(self, info: RunInfo) -> str:
        name = to_mlflow.experiment_of(self._options.experiment, info)
        if self.uri.startswith("databricks") and not name.startswith("/"):
            raise UsageError(
                f"Databricks wants an absolute experiment path, not {name!r}: "
                "pass --experiment '/Users/you@example.com/{project}'"
            )
        tags = to_mlflow.experiment_tags(info.entity, info.project)
        return self._experiments.find_or_create(name, tags)

    def _open_write_path(self, path: WritePath) -> BulkWriter | None:
        """Open the fastest way to write points, and say which it is; None for MLflow's calls."""
        client = self._client
        if path == "api":
            self.write_method = WriteMethod("api", "as --write-path says")
            return None
        obstacle = bulk_obstacle(client.mlflow)
        if path == "bulk" or not obstacle:
            sql = open_bulk(client.mlflow)
            self.write_method = WriteMethod("bulk", self._open_sql_client(sql))
            return sql
        try:
            rest = open_rest(client)
        except UsageError as error:
            self.write_method = WriteMethod("api", f"{obstacle}; {error}")
            return None
        client.client = RequestClient(client.mlflow)
        self.write_method = WriteMethod("requests", "the tracking URI is MLflow's own server")
        return rest

    def _open_sql_client(self, sql: SqlBulk) -> str:
        """Write runs in SQL, too, where that can be done; returns why it can, or cannot."""
        client = self._client
        known = f"{sql.transactions.engine.dialect.name} tables of the known shape"
        obstacle = sql_obstacle(client.mlflow, sql.transactions)
        if obstacle:
            return f"{known}; but runs are written by MLflow's own calls: {obstacle}"
        client.client = SqlClient(client.mlflow, sql.transactions)
        return known

    def check(self) -> None:
        """See `Target.check`. The place of an experiment's artifacts is checked when the first run
        is to be created there."""
        check_credentials(self._client)
        self._checks_places = True

    def curve(self, run_id: str, key: Key) -> list[tuple[int, float]]:
        """A metric's points in the order in which they were logged; empty where there are none."""
        name = names.legal_name(".".join(key), names.Limits.installed().key)
        try:
            history = self._client.call(self._client.mlflow.get_metric_history, run_id, name)
        except RefusedError:
            return []
        in_order = sorted(history, key=lambda metric: (metric.timestamp, metric.step))
        return [(metric.step, metric.value) for metric in in_order]

    def loss_reasons(self, run_id: str) -> list[str]:
        """See `Target.loss_reasons`: the lines of the run's list of losses, if that can be read."""
        try:
            with closing(Uploads(self._client, run_id, Losses())) as files:
                return reasons_in(files.download(LOSSES_FILE))
        except (TargetError, TargetUnavailableError, ValueError):
            return []

    def find(self, info: RunInfo) -> Twin | None:
        """The active run that has the identity tags, in any experiment; else, if that is wanted,
        the one that the W&B config names."""
        found = [run for run in self._search.replicas(info) if self._counts(run.tags)]
        complete = [run for run in found if run.tags.get(identity.STATE) == "complete"]
        if complete:
            return twin_of_found(min(complete, key=lambda run: self._rank(info, run.run_id)))
        if found:
            # Runs that were listed a while ago may be gone, or further.
            run = find_settled(self._client, lambda: self._replicas_now(info))
            if run is not None:
                return twin_of(run, named=False)
        return self._named(info) or self._beside(info) or self._foreign(info)

    def _beside(self, info: RunInfo) -> Twin | None:
        """The run that MLflow code logged while the W&B run was open, if there is one alone; each
        of the two names the other."""
        if not (self._options.find_beside and self._options.find_dual_written):
            return None
        found = self._search.started_beside(info)
        return twin_of(found[0], named=True) if len(found) == 1 else None

    def _named(self, info: RunInfo) -> Twin | None:
        """The run that the config of ``info`` names, though its tags do not say so: one that was
        created in MLflow, and is not written here; or any, see `TargetOptions.adopt_dual`."""
        created_there = info.config.get(identity.RUN_ID_CONFIG_KEY) == info.run_id
        wanted = self._options.adopt_dual or created_there
        run = self._search.named_in_config(info) if wanted else None
        if run is None or not self._options.find_dual_written:
            return None
        origin = identity.present_tags(run.data.tags).get(identity.ORIGIN)
        if not self._options.adopt_dual and origin != identity.MIRROR:
            return None
        return twin_of(run, True, info.config.get(identity.GIVEN_RUN_CONFIG_KEY) is True)

    def _foreign(self, info: RunInfo) -> Twin | None:
        """The run into which export-wandb-to-mlflow migrated ``info``; looking does not create
        the experiment."""
        name = to_mlflow.experiment_name(self._options.experiment, info.entity, info.project)
        experiment = self._options.experiment_id or self._experiments.find(name)
        found = self._search.foreign(info, experiment) if experiment else []
        return twin_of_found(found[0]) if found else None

    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> MlflowRunWriter:
        info = from_wandb_mirror.restored(to_mlflow.shown(info, self._secrets))
        tags = identity.identity_tags(info, origin, to_mlflow.MAPPING_VERSION)
        if info.mlflow is not None:
            tags |= {identity.RESTORED: "true", identity.STEP_METRIC: STEP_METRIC}
            tags |= {identity.PARENT_ID: info.mlflow.parent_id} if info.mlflow.parent_id else {}
        tags |= decision(info, self._step_rule)
        selection = identity.selection_of(info, self._options.selection)
        if selection:
            tags[identity.SELECTION] = selection
        if twin is None or twin.origin == identity.MIRROR:
            run, won = self._create(info, tags)
            if won:
                return self._writer(MlflowRunWriter, run, info, None)
            twin = twin_of(run, named=False)
        else:
            run = self._client.call(self._client.client.get_run_data, twin.run_id)
        if selection != twin.selection:
            tags[identity.SELECTION] = selection
        if twin.adopted:
            tags |= {identity.ORIGIN: "dual", identity.ADOPTED: "true"}
            return self._writer(AdoptedRunWriter, run, info, tags)
        return self._writer(MlflowRunWriter, run, info, tags)

    def _writer(
        self, kind: type[MlflowRunWriter], run: Run, info: RunInfo, tags: dict[str, str] | None
    ) -> MlflowRunWriter:
        common = self._client, run, info, tags, self._rules(info)
        return kind(*common, self._secrets, self._bulk, self._secondary, self._parents)

    def config_keys(self, twin: Twin) -> Mapping[str, str]:
        return identity.config_keys(twin.run_id, twin.experiment_id, self.uri)

    def place(self, experiment_id: str, run_id: str) -> Place:
        name = self._experiments.name_of(experiment_id)
        return Place(name, tracking_uri.link(self.uri, experiment_id, run_id))

    def destination(self, info: RunInfo) -> str:
        if self._options.experiment_id:
            return self._experiments.name_of(self._options.experiment_id)
        return to_mlflow.experiment_of(self._options.experiment, info)

    def compare(self, info: RunInfo, twin: Twin) -> RunComparison:
        """A writer that writes nothing and tells what in ``twin`` differs from what it is given."""
        run = self._client.call(self._client.client.get_run_data, twin.run_id)
        rules = self._rules(info)
        return RunComparison(self._client, run, info, rules, self._secrets, self._parents)

    def lacking(self, info: RunInfo, twin: Twin, counts: Mapping[Key, int]) -> str:
        """Say which points of a run are missing, by the number of points of each metric. Points
        that MLflow refused are not missing: they are counted as losses."""
        there = self._client.call(self._client.client.point_counts, twin.run_id)
        namer = names.Namer(names.Limits.installed().key)
        rules = self._rules(info)
        pairs = [
            (".".join(key), there.get(namer.name(key, rules.of(key).name), 0), n)
            for key, n in counts.items()
            # No metric of its own where MLflow's calls logged it.
            if key != (STEP_METRIC,) and not rules.of(key).drop
        ]
        missing = [(key, found, wanted) for key, found, wanted in pairs if found < wanted]
        if not missing or sum(wanted - found for _, found, wanted in missing) <= twin.refused:
            return ""
        key, found, wanted = missing[0]
        more = f", and further metrics ({len(missing) - 1})" if len(missing) > 1 else ""
        return f"MLflow has {found:,} of {wanted:,} points of {key}{more}"

    def _rules(self, info: RunInfo) -> MetricRules:
        """The rules for a run's keys; a run that was created in MLflow has its own metrics back."""
        created_here = from_wandb_mirror.restored(info).mlflow is not None
        return MetricRules(without_rules if created_here else self._options.map_metric, info)

    def _create(self, info: RunInfo, tags: dict[str, str]) -> tuple[Run, bool]:
        """Create the run, unless another process just did; returns it and whether it is ours."""
        experiment = self.experiment_id(info)
        parent = self._parents.parent_of(info, experiment)
        tags = tags | to_mlflow.name_tag(info) | ({PARENT_TAG: parent} if parent else {})
        new = NewRun(
            experiment, to_mlflow.run_name(info), to_mlflow.run_time(info.started_ms), tags
        )
        create_first = self._client.client.create_first
        same = partial(self._replicates, info)
        run = self._client.call(create_first, new, identity.RUN_ID, same)
        ours = run is not None
        if run is None:
            run, ours = create_once(self._client, new, lambda: self._replicas_now(info))
        self._search.created(info, run)
        return run, ours

    def _replicas_now(self, info: RunInfo) -> list[Run]:
        """Runs that replicate ``info``, settled or pending."""
        found = self._search.replicas_now(info)
        return [run for run in found if self._counts(run.data.tags)]

    def _replicates(self, info: RunInfo, tags: Mapping[str, str]) -> bool:
        return identity.same_run(info, tags) and self._counts(tags)

    def _counts(self, tags: Mapping[str, str]) -> bool:
        """Whether a run with these tags counts as a replica, where dual-written ones may not."""
        made = identity.present_tags(tags).get(identity.ORIGIN)
        return self._options.find_dual_written or made not in ("dual", identity.MIRROR)

    def _rank(self, info: RunInfo, run_id: str) -> tuple[bool, str]:
        """The order in which runs of one W&B run are preferred: the one that its config names."""
        return run_id != info.config.get(identity.RUN_ID_CONFIG_KEY), run_id
