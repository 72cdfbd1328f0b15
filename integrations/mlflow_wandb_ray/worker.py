"""Start a W&B run with a replica in MLflow in a function that Ray Train or Tune runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_wandb_plugin.core.identity import PARENT_GROUP_KEY
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_ray.arguments import MissingArgumentError, check_init_arguments, find_experiment
from mlflow_wandb_ray.runs import Destination, begin, group_of, project_of, run_id, storage_path

FAILED = 1


@dataclass(frozen=True)
class _Session:
    """What Ray says of the function that is running; outside of Ray, the defaults.

    Attributes:
        id, name, group: of the W&B run; the id is the same after a restart.
        storage: Ray's storage context.
        in_train: whether Ray Train runs the function.
    """

    rank: int = 0
    ranks: int = 1
    id: str | None = None
    name: str | None = None
    group: str | None = None
    storage: Any = None
    in_train: bool = False

    @classmethod
    def current(cls) -> _Session:
        """Return that of the function that is running."""
        import ray.train
        from ray.train._internal.session import get_session

        trial = get_session()
        if trial is not None:
            # The trial's id alone makes the id of the callback's run.
            own = run_id(storage_path(trial.storage), trial.trial_id, "function")
            return cls(trial.world_rank or 0, trial.world_size or 1, own, trial.trial_name,
                       trial.experiment_name, trial.storage)  # fmt: skip
        try:
            context: Any = ray.train.get_context()
            ranks = context.get_world_rank(), context.get_world_size()
        except RuntimeError:
            return cls()
        try:
            storage = context.get_storage()
        except NotImplementedError:
            # Local mode: Ray restores nothing, so each call is a training of its own.
            storage = None
        of_all = None if storage is None else run_id(storage_path(storage))
        return cls(*ranks, of_all, context.get_experiment_name(), None, storage, in_train=True)


def setup_dual(
    config: Mapping[str, Any] | None = None,
    api_key: str | None = None,
    api_key_file: str | None = None,
    rank_zero_only: bool = True,
    *,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
    experiment_id: str | None = None,
    experiment_name: str | None = None,
    tracking_token: str | None = None,
    artifact_location: str | None = None,
    run_name: str | None = None,
    create_experiment_if_not_exists: bool = False,
    tags: Any = None,
    databricks_config_file: str | None = None,
    mlflow_active: bool | None = None,
    **init: Any,
) -> Any:
    """Start the training's run in W&B and MLflow, or resume it after a restart.

    Takes the arguments of Ray's ``setup_wandb`` and ``setup_mlflow``. Call it in the function that
    a Trainer or Tuner runs. The W&B run's id follows from the storage path and the experiment's
    name, so that a restarted worker and a restarted experiment resume the same two runs.
    ``with setup_dual(config) as run:`` ends the run with the function; otherwise it ends when Ray
    shuts the worker down, which gives it 5 seconds.

    Args:
        config: the training function's config, logged as the run's config without secrets.
        api_key, api_key_file: W&B's key, or a file with it on storage of all nodes.
        rank_zero_only: other ranks get a run that does nothing. If False each rank has a run of its
            own, in one W&B group and below one run in MLflow.
        tracking_uri, registry_uri, tracking_token: of MLflow; None means MLflow's own settings.
        experiment_id, experiment_name, artifact_location, create_experiment_if_not_exists: MLflow's
            experiment, as ``setup_mlflow`` takes them.
        run_name: the run's name; ``name`` takes precedence.
        tags: a mapping has MLflow's tags, a sequence W&B's.
        mlflow_active: the setting of this package.
        databricks_config_file: what ``databricks configure`` wrote, on storage of all nodes.
        init: further arguments of ``wandb.init``; its ``id`` and ``name`` may also be called
            ``trial_id`` and ``trial_name``.

    Returns:
        The W&B run.

    Raises:
        UsageError: an argument is unknown, a setting is invalid, or this node has no credentials.
        ValueError: MLflow has no such experiment.
    """
    import wandb

    names = {"trial_id": "id", "trial_name": "name"}
    init = {names.get(name, name): value for name, value in init.items()}
    check_init_arguments("setup_dual", init)
    session = _Session.current()
    if rank_zero_only and session.rank:
        return wandb.init(mode="disabled")
    found = find_experiment(
        tracking_uri, experiment_id, experiment_name, artifact_location,
        create_experiment_if_not_exists, registry_uri, tracking_token,
    )  # fmt: skip
    settings = {
        "tracking_uri": tracking_uri, "experiment": found, "mlflow_active": mlflow_active,
    }  # fmt: skip
    of_mlflow = tags if isinstance(tags, Mapping) else {}
    if tags and not of_mlflow:
        init["tags"] = tags
    init["project"] = project_of(init, found)
    destination = Destination(
        init, settings, of_mlflow, api_key, api_key_file, databricks_config_file
    )
    arguments = _arguments(session, init, run_name, rank_zero_only)
    run = begin(destination, arguments, config or {}, session.storage)
    if session.in_train and session.storage is not None:
        _end_with_worker(run)
    return run


def setup_mlflow(
    config: Mapping[str, Any] | None = None,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
    experiment_id: str | None = None,
    experiment_name: str | None = None,
    tracking_token: str | None = None,
    artifact_location: str | None = None,
    run_name: str | None = None,
    create_experiment_if_not_exists: bool = False,
    tags: Mapping[str, Any] | None = None,
    rank_zero_only: bool = True,
    **more: Any,
) -> Any:
    """Start a run as `setup_dual` does, and make its replica MLflow's active run.

    Takes the arguments of Ray's ``setup_mlflow``, and as ``more`` those of `setup_dual`.

    Returns:
        The ``mlflow`` module; on other ranks than zero, one that does nothing.

    Raises:
        ValueError: there is no such experiment, or none is named.
    """
    import mlflow
    from ray.air.integrations.mlflow import _NoopModule

    session = _Session.current()
    if rank_zero_only and session.rank:
        return _NoopModule()
    named = {"experiment_id": experiment_id, "experiment_name": experiment_name or session.name}
    if not (any(named.values()) or find_experiment()):
        raise MissingArgumentError("pass experiment_name or experiment_id of MLflow's experiment")
    setup_dual(
        config, rank_zero_only=rank_zero_only, tracking_uri=tracking_uri, registry_uri=registry_uri,
        tracking_token=tracking_token, artifact_location=artifact_location,
        run_name=run_name or named["experiment_name"], tags=tags, mlflow_active=True,
        create_experiment_if_not_exists=create_experiment_if_not_exists, **named, **more,
    )  # fmt: skip
    return mlflow


def _arguments(
    session: _Session, init: Mapping[str, Any], name: str | None, rank_zero_only: bool
) -> dict[str, Any]:
    """Return the defaults of ``wandb.init``'s arguments, for the run of one rank or of all."""
    name, group = name or session.name, group_of(init, session.group)
    if rank_zero_only or session.ranks == 1:
        of_all = {"id": session.id, "name": name, "group": group}
        return {key: value for key, value in of_all.items() if value is not None}
    if "id" in init:
        raise UsageError("id= names one run: omit it with rank_zero_only=False, or pass group=")
    own = {"id": f"{session.id}-{session.rank}"} if session.id else {}
    group = group or session.id or name
    of_rank = {"name": f"{name}-{session.rank}", "group": group}
    return own | of_rank | {"config": {PARENT_GROUP_KEY: group}}


def _end_with_worker(run: Any) -> None:
    """Make Ray's worker end ``run`` at its shutdown, through Ray's internal worker callbacks."""
    try:
        from ray._private.worker import global_worker
        from ray.train.v2._internal.execution.callback import WorkerCallback

        actor = global_worker.actors[global_worker.actor_id]
        callbacks = actor._callbacks
    except (ImportError, AttributeError, KeyError):
        warn_once("this Ray cannot be asked to end runs with its workers: call run.finish()")
        return

    class EndRun(WorkerCallback):
        def before_worker_shutdown(self) -> None:
            end(run)

    callbacks.append(EndRun())


def end(run: Any) -> None:
    """End a run that the training function has left open; never raises."""
    if getattr(run, "_is_finished", False):
        return
    try:
        run.finish(exit_code=0 if _training_succeeded() else FAILED)
    except Exception as error:
        print(f"mlflow-wandb: the run could not be ended: {error}", file=sys.stderr)


def _training_succeeded() -> bool:
    """Whether the training function has returned: Ray also shuts down workers of failed groups."""
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        thread = get_train_context().execution_context.training_thread_runner
        return not thread.is_running() and thread.get_error() is None
    except (ImportError, AttributeError, RuntimeError):
        return False


setup_wandb = setup_dual
"""`setup_dual` by the name that Ray's own function has."""
