"""The MLflow run of a task that is born in MLflow (`mlflow_run`), mirrored into W&B."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import flyte

from mlflow_wandb_flyte import active, mirror
from mlflow_wandb_flyte.context import MlflowRunMode, get_mlflow_context
from mlflow_wandb_flyte.session import Ending
from mlflow_wandb_flyte.twin import MLFLOW_RUN_KEY, as_active, flyte_tags, passed_on
from mlflow_wandb_plugin.core import identity

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
    """What a decorator asks for.

    Attributes:
        run_mode: "auto" leaves it to ``mlflow_config``.
        rank: of this process; only rank 0 logs. None reads the variable RANK.
        given: arguments of `mlflow_config` that were given to the decorator.
    """

    run_mode: MlflowRunMode = "auto"
    rank: int | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def mode(self) -> MlflowRunMode:
        config = get_mlflow_context()
        return config.run_mode if self.run_mode == "auto" and config else self.run_mode

    def logs_here(self) -> bool:
        rank = os.environ.get("RANK") if self.rank is None else self.rank
        return int(rank or 0) == 0

    def arguments(self) -> dict[str, Any]:
        """The decorator's arguments, then the context's."""
        config = get_mlflow_context()
        context = asdict(config) if config else {}
        more = context.pop("kwargs", None) or {}
        merged = {key: value for key, value in {**more, **context}.items() if value is not None}
        for own, other in (("experiment_id", "experiment_name"), ("run_id", "run_name")):
            # One that excludes another takes its place.
            for key, rival in ((own, other), (other, own)):
                if self.given.get(key):
                    merged.pop(rival, None)
        autolog_kwargs = {
            **merged.get("autolog_kwargs", {}),
            **self.given.get("autolog_kwargs", {}),
        }
        return {**merged, **self.given, "autolog_kwargs": autolog_kwargs}


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
        """
        Raises:
            ValueError: MLflow has no such framework to log automatically.
        """
        if not self._options.logs_here():
            return
        self._arguments = self._options.arguments()
        self.run = _open_runs.get(self._shared_id() or "")
        if self.run is None:
            with active.mlflow_runs():
                self.run = self._start()

    @contextmanager
    def entered(self) -> Iterator[None]:
        if self.run is None:
            yield
            return
        given = self._arguments
        with ExitStack() as stack:
            stack.enter_context(
                passed_on(self.run, given.get("link_host"), given.get("link_template"))
            )
            stack.enter_context(active.mlflow_runs(self.run))
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

            with active.mlflow_runs(self.run):
                mlflow.end_run(STATUS[ending])
        except Exception as error:
            logger.warning("MLflow run %s could not be ended: %s", self.run.info.run_id, error)
        mirror.wait(self.run.info.run_id)

    # -- starting -------------------------------------------------------------------------

    def _shared_id(self) -> str | None:
        """The parent's run, if this task is to log into it."""
        context = flyte.ctx().custom_context or {}
        return context.get("_mlflow_run_id") if self._options.mode() == "auto" else None

    def _start(self) -> Any:
        import mlflow

        mirror.use(self._arguments.get("tracking_uri"))
        self._client = mlflow.MlflowClient()
        shared = self._shared_id()
        if shared:
            # Somebody else opened it, and ends it.
            for key, value in (self._options.given.get("tags") or {}).items():
                self._client.set_tag(shared, key, value)
            return as_active(self._client.get_run(shared))
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
        """Arguments of ``mlflow.start_run`` for a task: an earlier attempt's run goes on."""
        if start.get("run_id"):
            return start
        tags = {**flyte_tags(), **(start.get("tags") or {})}
        parent = (flyte.ctx().custom_context or {}).get("_mlflow_run_id")
        if self._options.mode() == "nested":
            if parent:
                tags["mlflow.parentRunId"] = parent
            else:
                logger.warning("run_mode='nested' but no parent run: the run has no parent")
        earlier = self._earlier_attempt(experiment)
        if earlier:
            return {"run_id": earlier, "tags": tags}
        action = flyte.ctx().action
        name = start.get("run_name") or f"{action.run_name}-{action.name}"
        return {**start, "run_name": name, "tags": tags}

    def _earlier_attempt(self, experiment: str | None) -> str | None:
        from mlflow.tracking import fluent

        action = flyte.ctx().action
        quoted = {
            "flyte.run_name": str(action.run_name).replace("'", ""),
            "flyte.action_name": str(action.name).replace("'", ""),
        }
        found = self._client.search_runs(
            [experiment or fluent._get_experiment_id()],
            " and ".join(f"tags.`{key}` = '{value}'" for key, value in quoted.items()),
        )
        # A W&B run's replica carries the action's tags, too.
        born_here = (None, identity.MIRROR)
        own = [run for run in found if run.data.tags.get(identity.ORIGIN) in born_here]
        return own[0].info.run_id if own else None

    def _autolog(self) -> None:
        """
        Raises:
            ValueError: MLflow has no such framework.
        """
        given = self._arguments
        if not given.get("autolog"):
            return
        import mlflow

        options = {
            "log_models": given.get("log_models", True),
            "log_datasets": given.get("log_datasets", True),
            **given["autolog_kwargs"],
        }
        framework = given.get("framework")
        module: Any = getattr(mlflow, framework, None) if framework else mlflow
        if not hasattr(module, "autolog"):
            raise ValueError(f"MLflow framework '{framework}' not supported")
        module.autolog(**options)


def current_run() -> Any:
    """The MLflow run of the running task, or None."""
    data = flyte.ctx().data
    return data.get(MLFLOW_RUN_KEY) if data else None


@contextmanager
def plain_run(options: MlflowOptions) -> Iterator[Any]:
    """A run around a plain function, outside of Flyte."""
    import mlflow

    session = MlflowSession(options)
    session._arguments = options.arguments()
    run = session._start()
    session._autolog()
    try:
        yield run
    except BaseException as error:
        from mlflow_wandb_flyte.session import ending_of

        mlflow.end_run(STATUS[ending_of(error)])
        mirror.wait(run.info.run_id)
        raise
    mlflow.end_run()
    mirror.wait(run.info.run_id)
