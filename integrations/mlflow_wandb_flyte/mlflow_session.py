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
from mlflow_wandb_flyte.context import MlflowRunMode, get_mlflow_context
from mlflow_wandb_flyte.session import Ending, ending_of
from mlflow_wandb_flyte.wandb_session import action_id
from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.mlflow_terms import PARENT_TAG

logger = logging.getLogger(__name__)

STATUS: Mapping[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
AUTOLOG = ("autolog", "framework", "log_models", "log_datasets", "autolog_kwargs")
NOT_FOR_START_RUN = (
    *AUTOLOG, "tracking_uri", "experiment_name", "experiment_id", "run_mode", "link_host",
    "link_template",
)  # fmt: skip

_open_runs: dict[str, Any] = {}
"""MLflow runs that tasks of this process have open, by id."""


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
    given: Mapping[str, Any] = field(default_factory=dict)

    def mode(self) -> MlflowRunMode:
        """Return the run mode after ``mlflow_config``."""
        config = get_mlflow_context()
        return config.run_mode if self.run_mode == "auto" and config else self.run_mode

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
        self.run = _open_runs.get(self._shared_id() or "")
        if self.run is None:
            with current_run.mlflow_runs():
                self.run = self._start()

    @contextmanager
    def entered(self) -> Iterator[None]:
        if self.run is None:
            yield
            return
        link = self._arguments.get("link_host"), self._arguments.get("link_template")
        with replica.task_run(self.run, *link), current_run.mlflow_runs(self.run):
            self._autolog()
            yield

    def close(self, ending: Ending) -> None:
        with self._closing:
            if not self._owner:
                return
            self._owner = False
        _open_runs.pop(self.run.info.run_id, None)
        try:
            import mlflow

            with current_run.mlflow_runs(self.run):
                mlflow.end_run(STATUS[ending])
        except Exception as error:
            logger.warning("MLflow run %s could not be ended: %s", self.run.info.run_id, error)
        replica.wait_for_wandb(self.run.info.run_id)

    def _shared_id(self) -> str | None:
        """Return the parent's run id, if this task is to log into that run."""
        context = flyte.ctx().custom_context or {}
        return context.get(keys.MLFLOW_RUN_ID) if self._options.mode() == "auto" else None

    def _start(self) -> Any:
        import mlflow

        replica.use_mirrored_store(self._arguments.get("tracking_uri"))
        self._client = mlflow.MlflowClient()
        shared = self._shared_id()
        if shared:
            # Another process opened the run, and ends it.
            for key, value in (self._options.given.get("tags") or {}).items():
                self._client.set_tag(shared, key, value)
            return replica.as_active_run(self._client.get_run(shared))
        start = {k: v for k, v in self._arguments.items() if k not in NOT_FOR_START_RUN}
        experiment = self._experiment_id()
        if flyte.ctx():
            start = self._of_this_action(start, experiment)
        run = mlflow.start_run(experiment_id=experiment, **start)
        self._owner = True
        _open_runs[run.info.run_id] = run
        return run

    def _experiment_id(self) -> str | None:
        import mlflow

        given = self._arguments.get("experiment_id")
        if given:
            return str(mlflow.set_experiment(experiment_id=given).experiment_id)
        name = self._arguments.get("experiment_name")
        return str(mlflow.set_experiment(name).experiment_id) if name else None

    def _of_this_action(self, start: dict[str, Any], experiment: str | None) -> dict[str, Any]:
        """Return arguments of ``mlflow.start_run`` that resume an earlier attempt's run, if any."""
        if start.get("run_id"):
            return start
        tags = {**replica.flyte_tags(), **(start.get("tags") or {})}
        parent = (flyte.ctx().custom_context or {}).get(keys.MLFLOW_RUN_ID)
        if self._options.mode() == "nested":
            if parent:
                tags[PARENT_TAG] = parent
            else:
                logger.warning("run_mode='nested' but no parent run: the run has no parent")
        earlier = self._earlier_attempt(experiment)
        if earlier:
            return {"run_id": earlier, "tags": tags}
        return {**start, "run_name": start.get("run_name") or action_id(), "tags": tags}

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


@contextmanager
def plain_run(options: MlflowOptions) -> Iterator[Any]:
    """Open a run around a plain function, outside Flyte."""
    import mlflow

    session = MlflowSession(options)
    session._arguments = options.arguments()
    run = session._start()
    session._autolog()
    try:
        yield run
    except BaseException as error:
        mlflow.end_run(STATUS[ending_of(error)])
        replica.wait_for_wandb(run.info.run_id)
        raise
    mlflow.end_run()
    replica.wait_for_wandb(run.info.run_id)


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
