"""Make the replica of an open W&B run MLflow's active run, and end that.

`active_calls` tells the W&B run what MLflow's calls log to it.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

from mlflow_wandb_plugin.core.mlflow_terms import NOTES_TAG
from mlflow_wandb_plugin.store import waiting_store
from mlflow_wandb_plugin.store.active_calls import Receiver, receivers, wrap_clients, wrap_store


def fetch(uri: str, run_id: str, wait_s: float) -> Any:
    """Return the run ``run_id`` of the store at ``uri``; waits at most ``wait_s`` seconds.

    Args:
        uri: becomes MLflow's tracking URI, if it is another one; empty means the present one.

    Raises:
        TimeoutError: MLflow did not answer in time.
        Exception: MLflow has refused.
    """
    import mlflow

    use_tracking_uri(uri)
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(mlflow.MlflowClient().get_run(run_id))
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=ask, name="mlflow-wandb", daemon=True)
    thread.start()
    thread.join(wait_s)
    if not answers:
        raise TimeoutError(f"MLflow did not answer within {wait_s:g} s")
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def use_tracking_uri(uri: str) -> None:
    """Make ``uri`` MLflow's tracking URI, unless it is empty."""
    import mlflow

    if uri and mlflow.get_tracking_uri() != uri:
        mlflow.set_tracking_uri(uri)


def active_run_id() -> str:
    """Return the id of MLflow's active run in this thread; empty if there is none."""
    import mlflow

    run = mlflow.active_run()
    return run.info.run_id if run is not None else ""


def is_replica(run_id: str) -> bool:
    """Whether MLflow's run ``run_id`` is active as the replica of an open W&B run."""
    return run_id in receivers


def begin(run: Any, receiver: Receiver | None) -> Any:
    """Make ``run`` MLflow's active run in this thread; ``receiver`` gets what is logged to it.

    Without a receiver, what is logged to a run of `waiting_store` is dropped.

    Returns:
        The active run.
    """
    import mlflow
    from mlflow.tracking._tracking_service.utils import _get_store

    wrap_clients()
    _wrap_start_run()
    if receiver is not None:
        receivers[run.info.run_id] = receiver
    if not waiting_store.has(run.info.run_id):
        # Of which MLflow's tracing has no client.
        get_store: Any = _get_store
        wrap_store(get_store())
    active_run: Any = mlflow.ActiveRun
    active = active_run(run)
    _stacks().get().append(active)
    return active


def end(run_id: str) -> None:
    """Make ``run_id`` active no more, in whichever thread it is, and forget its receiver."""
    receivers.pop(run_id, None)
    waiting_store.give_back(run_id)
    for stack in _stacks().get_all_thread_values().values():
        stack[:] = [run for run in stack if run.info.run_id != run_id]


def flush(receiver: Receiver, wait_s: float) -> None:
    """Wait at most ``wait_s`` seconds until MLflow has what it logs in threads: images of the
    receiver's run, and traces."""
    import mlflow
    from mlflow.tracking._tracking_service.utils import _get_artifact_repo

    def wait() -> None:
        get_repository: Any = _get_artifact_repo
        for run_id in [name for name, one in receivers.items() if one is receiver]:
            repository = get_repository(run_id)
            if repository is not None:
                repository.flush_async_logging()
        mlflow.flush_trace_async_logging()

    thread = threading.Thread(target=wait, name="mlflow-wandb", daemon=True)
    thread.start()
    thread.join(wait_s)


def _stacks() -> Any:
    """MLflow's stack of active runs, of which each thread has its own."""
    from mlflow.tracking import fluent

    return fluent._active_run_stack


def _wrap_start_run() -> None:
    """Wrap once `mlflow.start_run`: where a replica is active, a run that is not nested is it, and
    no error."""
    import mlflow
    from mlflow.tracking import fluent

    original = fluent.start_run
    if fluent.start_run is not mlflow.start_run or isinstance(original, _StartRun):
        return
    wrapped: Any = _StartRun(original)
    mlflow.start_run = fluent.start_run = wrapped


class _StartRun:
    """`mlflow.start_run`, wrapped. The run has its name and experiment from W&B."""

    def __init__(self, original: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self._original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import mlflow

        run = mlflow.active_run()
        given = inspect.signature(self._original).bind(*args, **kwargs).arguments
        other = given.get("run_id") or given.get("nested") or given.get("parent_run_id")
        if run is None or not is_replica(run.info.run_id) or other:
            return self._original(*args, **kwargs)
        note = {NOTES_TAG: given["description"]} if given.get("description") else {}
        if tags := {**(given.get("tags") or {}), **note}:
            mlflow.set_tags(tags)
        active_run: Any = mlflow.ActiveRun
        again = active_run(run)
        _stacks().get().append(again)
        return again
