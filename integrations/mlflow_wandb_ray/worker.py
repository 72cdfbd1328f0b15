"""In the training function of Ray Train: a W&B run whose replica is in MLflow."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_ray.runs import Homes, begin, nested_below, place_of, run_id

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
    """Start the training's run in both homes, or go on with it after a restart.

    Call it in the function that a Trainer runs. The W&B run's id follows from the storage path and
    the experiment's name, so that a restarted worker, and the same experiment begun again, go on in
    the same two runs. ``with setup_dual(config) as run:`` ends the run with the function;
    otherwise it ends when Ray shuts the worker down, which gives it 5 seconds.

    Args:
        config: what the training function was given, logged as the run's config without secrets.
        rank_zero_only: other ranks get a run that does nothing. If False each rank has a run of its
            own, in one W&B group and below one run in MLflow.
        tracking_uri, experiment: of MLflow; None means as everywhere in this package.
        api_key_file: a file with W&B's key, on storage that all nodes see.
        databricks_config_file: what ``databricks configure`` wrote, on such storage.
        init: further arguments of ``wandb.init``.

    Returns:
        The W&B run.

    Raises:
        UsageError: called elsewhere, a setting does not fit, or this node has no credentials.
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
        arguments["id"] = run_id(place_of(storage))
    if not rank_zero_only and ranks > 1:
        arguments |= _of_rank(arguments, str(name), rank, init)
    homes = Homes(init, tracking_uri, experiment, api_key_file, databricks_config_file)
    run = begin(homes, arguments, config or {}, storage)
    if storage is not None:
        _end_with_worker(run)
    return run


def _of_rank(
    arguments: Mapping[str, Any], name: str, rank: int, init: Mapping[str, Any]
) -> dict[str, Any]:
    """One run of several: the user's id stands for all of them."""
    base = init.get("id") or arguments.get("id")
    group = init.get("group") or base or name
    if "id" in init:
        raise UsageError(
            "id= names one run: leave it out with rank_zero_only=False, or pass group="
        )
    own = {"id": f"{base}-{rank}"} if base else {}
    return {"name": f"{name}-{rank}", "group": group, "config": nested_below(group)} | own


def _context() -> Any:
    """
    Raises:
        UsageError: this is no worker of Ray Train.
    """
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
    """Have Ray's worker end ``run`` before it goes; Ray offers that to its own callbacks only."""
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
    """Whether the function has returned: a worker is also shut down because another one died."""
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        thread = get_train_context().execution_context.training_thread_runner
        return not thread.is_running() and thread.get_error() is None
    except (ImportError, AttributeError, RuntimeError):
        return False
