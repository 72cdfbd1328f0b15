"""Start a W&B run with a replica in MLflow in the training function of Ray Train."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from mlflow_wandb_plugin.core.identity import PARENT_GROUP_KEY
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_ray.runs import Destination, begin, run_id, storage_path

FAILED = 1


def setup_dual(
    config: Mapping[str, Any] | None = None,
    *,
    rank_zero_only: bool = True,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    api_key_file: str | None = None,
    databricks_config_file: str | None = None,
    **init: Any,
) -> Any:
    """Start the training's run in W&B and MLflow, or resume it after a restart.

    Call it in the function that a Trainer runs. The W&B run's id follows from the storage path and
    the experiment's name, so that a restarted worker and a restarted experiment resume the same two
    runs. ``with setup_dual(config) as run:`` ends the run with the function;
    otherwise it ends when Ray shuts the worker down, which gives it 5 seconds.

    Args:
        config: the training function's config, logged as the run's config without secrets.
        rank_zero_only: other ranks get a run that does nothing. If False each rank has a run of its
            own, in one W&B group and below one run in MLflow.
        tracking_uri, experiment: of MLflow; None means the settings of this package.
        api_key_file: a file with W&B's key, on storage of all nodes.
        databricks_config_file: what ``databricks configure`` wrote, on such storage.
        init: further arguments of ``wandb.init``.

    Returns:
        The W&B run.

    Raises:
        UsageError: not called in a training function, a setting is invalid, or this node has no
            credentials.
    """
    import wandb

    context = _context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    if rank_zero_only and rank:
        return wandb.init(mode="disabled")
    storage = _storage(context)
    name = context.get_experiment_name()
    arguments: dict[str, Any] = {"name": name}
    if storage is not None:
        # Without storage (local mode) Ray restores nothing: each call is a training of its own.
        arguments["id"] = run_id(storage_path(storage))
    if not rank_zero_only and ranks > 1:
        arguments |= _of_rank(arguments, str(name), rank, init)
    destination = Destination(init, tracking_uri, experiment, api_key_file, databricks_config_file)
    run = begin(destination, arguments, config or {}, storage)
    if storage is not None:
        _end_with_worker(run)
    return run


def _of_rank(
    arguments: Mapping[str, Any], name: str, rank: int, init: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of ``wandb.init`` for the run of one rank of several."""
    base = init.get("id") or arguments.get("id")
    group = init.get("group") or base or name
    if "id" in init:
        raise UsageError("id= names one run: omit it with rank_zero_only=False, or pass group=")
    own = {"id": f"{base}-{rank}"} if base else {}
    return {"name": f"{name}-{rank}", "group": group, "config": {PARENT_GROUP_KEY: group}} | own


def _context() -> Any:
    """Return the training function's context; UsageError if this is not a worker of Ray Train."""
    import ray.train

    try:
        return ray.train.get_context()
    except RuntimeError as error:
        raise UsageError(
            "setup_dual is called in the function that a Ray Trainer runs; in plain Ray tasks "
            "use @mlflow_wandb_plugin.dual_write, with Tune mlflow_wandb_ray.DualLoggerCallback"
        ) from error


def _storage(context: Any) -> Any:
    try:
        return context.get_storage()
    except NotImplementedError:
        return None


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
