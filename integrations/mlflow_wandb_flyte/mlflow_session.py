"""The MLflow run of an `mlflow_run` task, mirrored to W&B."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import flyte

from mlflow_wandb_flyte import current_run, keys, replica
from mlflow_wandb_flyte.context import MlflowRunMode, OnBackendError, get_mlflow_context
from mlflow_wandb_flyte.session import Ending
from mlflow_wandb_flyte.wandb_session import action_id
from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.mlflow_terms import PARENT_TAG
from mlflow_wandb_plugin.core.training_settings import load_settings

logger = logging.getLogger(__name__)

STATUS: Mapping[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
AUTOLOG = ("autolog", "framework", "log_models", "log_datasets", "autolog_kwargs")
NOT_FOR_START_RUN = (
    *AUTOLOG, "tracking_uri", "experiment_name", "experiment_id", "run_mode", "link_host",
    "link_template",
)  # fmt: skip
NOT_FOR_REPLICA = ("experiment_id", "run_id", "parent_run_id")
"""Arguments that say which MLflow run it is, which W&B's run says of its replica."""
IGNORED_BY_REPLICA = ("experiment_id", "run_id", "run_name")
"""Fields of `mlflow_config` that are not those of a W&B run's replica."""


@dataclass(frozen=True)
class MlflowOptions:
    """Arguments of `mlflow_run`.

    Attributes:
        run_mode: "auto" leaves the choice to ``mlflow_config``.
        rank: rank of this process; only rank 0 logs. None means the variable RANK.
        given: arguments of `mlflow_config` that the decorator got.
    """

    run_mode: MlflowRunMode = "auto"
    rank: int | None = None
    on_backend_error: OnBackendError = "raise"
    given: Mapping[str, Any] = field(default_factory=dict)

    def mode(self) -> MlflowRunMode:
        """Return the run mode after ``mlflow_config``."""
        config = get_mlflow_context()
        return config.run_mode if self.run_mode == "auto" and config else self.run_mode

    def for_replica(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return arguments of ``wandb.init``, and fields of `settings.Settings`, for the W&B run
        that has the MLflow run as its replica."""
        init = {"name": "run_name", "notes": "description"}
        settings = {"tracking_uri": "tracking_uri", "experiment": "experiment_name"}
        given: Any = [
            {key: self.given[name] for key, name in names.items() if self.given.get(name)}
            for names in (init, settings)
        ]
        return given[0], given[1]

    def logs_here(self) -> bool:
        """Whether this process is the one that logs."""
        rank = os.environ.get("RANK") if self.rank is None else self.rank
        return int(rank or 0) == 0

    def arguments(self) -> dict[str, Any]:
        """Return the decorator's arguments, completed by ``mlflow_config``."""
        config = get_mlflow_context()
        merged = config.arguments() if config else {}
        # MLflow takes an id or a name: the decorator's choice replaces the configuration's.
        for names in (("experiment_id", "experiment_name"), ("run_id", "run_name")):
            if any(self.given.get(name) for name in names):
                for name in names:
                    merged.pop(name, None)
        both = (merged.get("autolog_kwargs", {}), self.given.get("autolog_kwargs", {}))
        return {**merged, **self.given, "autolog_kwargs": both[0] | both[1]}


class MlflowSession:
    """A `Session` of one call of a task, or of a plain function outside of Flyte."""

    def __init__(self, options: MlflowOptions) -> None:
        self._options = options
        self._arguments: dict[str, Any] = {}
        self._closing = threading.Lock()
        self._owner = False
        self._client: Any = None
        self.run: Any = None

    def open(self) -> None:
        """Start the run, or use the parent task's; only the process that logs has one."""
        if not self._options.logs_here():
            return
        self._arguments = self._options.arguments()
        shares = self._options.mode() == "auto"
        shared, self.run = replica.inherited_run() if shares else ("", None)
        if self.run is None:
            with current_run.mlflow_runs():
                self.run = self._started(shared)
        if not self._owner:
            # A shared run, which another task has opened, and ends.
            self._tag_shared_run()

    @contextmanager
    def entered(self) -> Iterator[None]:
        if self.run is None:
            yield
            return
        link = self._arguments.get("link_host"), self._arguments.get("link_template")
        with replica.task_run(self.run, *link):
            self._autolog()
            yield

    def close(self, ending: Ending) -> None:
        with self._closing:
            if not self._owner:
                return
            self._owner = False
        try:
            import mlflow

            with current_run.mlflow_runs(self.run):
                mlflow.end_run(STATUS[ending])
        except Exception as error:
            logger.warning("MLflow run %s could not be ended: %s", self.run.info.run_id, error)
        from mlflow_wandb_plugin.store import delivery

        # The container may end with the task.
        delivery.wait_for(self.run.info.run_id, load_settings().finish_timeout)

    def _started(self, shared: str) -> Any:
        if self._options.on_backend_error == "raise":
            return self._start(shared)
        import mlflow

        from mlflow_wandb_plugin.mlflow_access.address import connect
        from mlflow_wandb_plugin.store import active_run, uris, waiting_store

        uri = self._arguments.get("tracking_uri") or mlflow.get_tracking_uri()
        try:
            connect(uris.without_prefix(uri))
            return self._start(shared)
        except Exception as error:
            logger.warning("MLflow cannot be had (%s): what the task logs to it is dropped", error)
            return active_run.begin(waiting_store.create_run("dropped"), None)

    def _start(self, shared: str) -> Any:
        import mlflow

        uri = self._arguments.get("tracking_uri", "")
        if load_settings().homes == "both":
            from mlflow_wandb_plugin.store import uris

            uris.use_mirrored(uri)
        elif uri:
            mlflow.set_tracking_uri(uri)
        self._client = mlflow.MlflowClient()
        if shared:
            active_run: Any = mlflow.ActiveRun
            return active_run(self._client.get_run(shared))
        start = {k: v for k, v in self._arguments.items() if k not in NOT_FOR_START_RUN}
        experiment = self._experiment_id()
        if flyte.ctx():
            start, experiment = self._of_this_action(start, experiment)
        run = mlflow.start_run(experiment_id=experiment, **start)
        self._owner = True
        return run

    def _tag_shared_run(self) -> None:
        import mlflow

        client = mlflow.MlflowClient()
        try:
            for key, value in (self._arguments.get("tags") or {}).items():
                client.set_tag(self.run.info.run_id, key, value)
        except Exception as error:
            logger.warning("MLflow run %s lacks tags: %s", self.run.info.run_id, error)

    def _experiment_id(self) -> str | None:
        import mlflow

        given = self._arguments.get("experiment_id")
        if given:
            return str(mlflow.set_experiment(experiment_id=given).experiment_id)
        name = self._arguments.get("experiment_name")
        return str(mlflow.set_experiment(name).experiment_id) if name else None

    def _of_this_action(
        self, start: dict[str, Any], experiment: str | None
    ) -> tuple[dict[str, Any], str | None]:
        """Return arguments of ``mlflow.start_run``, which resume an earlier attempt's run, and the
        experiment: of a nested run the parent's, where MLflow shows them together."""
        if start.get("run_id"):
            return start, experiment
        tags = {**replica.flyte_tags(), **(start.get("tags") or {})}
        if self._options.mode() == "nested":
            parent, run = replica.inherited_run()
            if parent:
                tags[PARENT_TAG] = parent
                parent_run = run or self._client.get_run(parent)
                experiment = experiment or parent_run.info.experiment_id
            else:
                logger.warning("run_mode='nested' but no parent run: the run has no parent")
        earlier = self._earlier_attempt(experiment)
        if earlier:
            return {"run_id": earlier, "tags": tags}, experiment
        named = {**start, "run_name": start.get("run_name") or action_id(), "tags": tags}
        return named, experiment

    def _earlier_attempt(self, experiment: str | None) -> str | None:
        found = self._client.search_runs([experiment or _default_experiment()], _of_action())
        # The replica of a W&B run has the action's tags, too.
        of_mlflow = (None, identity.MIRROR)
        own = [
            run
            for run in found
            if identity.present_tags(run.data.tags).get(identity.ORIGIN) in of_mlflow
        ]
        return own[0].info.run_id if own else None

    def _autolog(self) -> None:
        """Switch on MLflow's autologging, if it is asked for.

        Raises:
            ValueError: MLflow has no such framework.
        """
        given = self._arguments
        if not given.get("autolog"):
            return
        import mlflow

        framework = given.get("framework")
        module: Any = getattr(mlflow, framework, None) if framework else mlflow
        if not hasattr(module, "autolog"):
            raise ValueError(f"MLflow framework '{framework}' not supported")
        options = {name: given.get(name, True) for name in ("log_models", "log_datasets")}
        module.autolog(**options | given["autolog_kwargs"])


def get_mlflow_run() -> Any:
    """Return the MLflow run of the running task, or None."""
    return (flyte.ctx().data or {}).get(keys.MLFLOW_RUN)


def end_runs_of_killed_workers(options: MlflowOptions) -> None:
    """End the running MLflow runs of this action as killed. Errors become warnings.

    Not the replicas of W&B runs: their replicator notices that its process is gone.
    """
    import mlflow

    try:
        arguments = options.arguments()
        client = mlflow.MlflowClient(arguments.get("tracking_uri"))
        experiment: Any = arguments.get("experiment_id")
        if not experiment and arguments.get("experiment_name"):
            named = client.get_experiment_by_name(arguments["experiment_name"])
            experiment = named.experiment_id if named else None
        running = f"{_of_action()} and attributes.status = 'RUNNING'"
        for run in client.search_runs([str(experiment or _default_experiment())], running):
            client.set_terminated(run.info.run_id, "KILLED")
    except Exception as error:
        logger.warning("cannot end the MLflow runs of killed workers: %s", error)


def _of_action() -> str:
    """Return MLflow's search filter for the runs of the current action."""
    action = flyte.ctx().action
    names = {"run_name": str(action.run_name), "action_name": str(action.name)}
    tags = {key: name.replace("'", "") for key, name in names.items()}
    return " and ".join(f"tags.`flyte.{key}` = '{name}'" for key, name in tags.items())


def _default_experiment() -> str:
    from mlflow.tracking import fluent

    return str(fluent._get_experiment_id())
