"""Make the replica of an open W&B run MLflow's active run, and tell that run what is logged there.

What MLflow's calls log reaches MLflow's store first, as ever. The methods of that store, and of the
repository of the run's artifacts, are wrapped for the calls that are about such a run: then a
`Receiver` gets what was logged. For all other runs they are MLflow's own.
"""

from __future__ import annotations

import functools
import os
import posixpath
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mlflow_wandb_plugin.core.messages import log_once


class Receiver(Protocol):
    """The W&B run whose replica is active. Its methods get MLflow's entities."""

    def unknown_metrics(self, metrics: Sequence[Any]) -> list[Any]:
        """Return those that MLflow does not get from W&B anyway."""

    def unknown_params(self, params: Sequence[Any]) -> list[Any]:
        """Return those that MLflow does not get from W&B anyway."""

    def add(self, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]) -> None:
        """Take what MLflow has accepted."""

    def add_files(self, files: Mapping[str, Path]) -> None:
        """Take files that MLflow has accepted, by their path in the run."""

    def add_model_files(self, model: Any, files: Mapping[str, Path]) -> None:
        """Take files of a logged model (MLflow's entity), by their path in the model."""

    def end_model(self, model: Any) -> None:
        """Take a logged model, which gets no more files."""


_receivers: dict[str, Receiver] = {}
"""By the id of the MLflow run. Changed in one step, so that no lock is needed to read it."""
_models: dict[str, Any] = {}
"""The logged models of these runs that may get more files, by their id."""
_pid = os.getpid()


def fetch(uri: str, run_id: str, wait_s: float) -> Any:
    """Return the run ``run_id`` of the store at ``uri``; waits at most ``wait_s`` seconds.

    Args:
        uri: becomes MLflow's tracking URI, if it is another one; empty means the present one.

    Raises:
        TimeoutError: MLflow did not answer in time.
        Exception: MLflow has refused.
    """
    import mlflow

    if uri and mlflow.get_tracking_uri() != uri:
        mlflow.set_tracking_uri(uri)
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


def active_run_id() -> str:
    """Return the id of MLflow's active run in this thread; empty if there is none."""
    import mlflow

    run = mlflow.active_run()
    return run.info.run_id if run is not None else ""


def is_replica(run_id: str) -> bool:
    """Whether MLflow's run ``run_id`` is active as the replica of an open W&B run."""
    return run_id in _receivers


def begin(run: Any, receiver: Receiver) -> None:
    """Make ``run`` MLflow's active run in this thread; ``receiver`` gets what is logged to it."""
    import mlflow

    _wrap_client()
    _receivers[run.info.run_id] = receiver
    active_run: Any = mlflow.ActiveRun
    _stacks().get().append(active_run(run))


def end(run_id: str) -> None:
    """Make ``run_id`` active no more, in whichever thread it is, and forget its receiver."""
    _receivers.pop(run_id, None)
    for stack in _stacks().get_all_thread_values().values():
        stack[:] = [run for run in stack if run.info.run_id != run_id]


def _stacks() -> Any:
    """MLflow's stack of active runs, of which each thread has its own."""
    from mlflow.tracking import fluent

    return fluent._active_run_stack


def _receiver_of(run_id: Any) -> Receiver | None:
    receiver = _receivers.get(run_id)
    if receiver is not None and os.getpid() != _pid:
        log_once(
            "what a forked process logs to the active run by MLflow's calls stays in MLflow: only "
            "the process that opened the W&B run can log it there, too"
        )
        return None
    return receiver


def _told(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a receiver's method; None if it fails, for MLflow's call succeeds all the same."""
    try:
        return method(*arguments)
    except Exception as error:
        log_once(f"what MLflow's calls log does not reach W&B: {type(error).__name__}: {error}")
        return None


# -- the store ------------------------------------------------------------------------------------


def _wrap_client() -> None:
    """Wrap once what gives MLflow's client its store, and the repositories of runs and models."""
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

    client: Any = TrackingServiceClient
    original_store, original_repository = client.store, client._get_artifact_repo
    if isinstance(original_store, _Store):
        return

    @functools.wraps(original_repository)
    def get_artifact_repo(self: Any, resource_id: str, *args: Any, **kwargs: Any) -> Any:
        repository = original_repository(self, resource_id, *args, **kwargs)
        if resource_id in _receivers or resource_id in _models:
            _wrap_repository(repository, resource_id)
        return repository

    client._get_artifact_repo = get_artifact_repo
    client.store = _Store(lambda self: _wrapped_store(original_store.fget(self)))


class _Store(property):
    """The property with which MLflow's client gets its store, wrapped."""


def _wrapped_store(store: Any) -> Any:
    """``store``, its methods wrapped if a replica is active. MLflow keeps one for each URI."""
    if _receivers and not isinstance(store.log_batch, _Wrapped):
        for name, wrapper in _WRAPPERS.items():
            method = getattr(store, name, None)
            if method is not None:
                setattr(store, name, _Wrapped(method, wrapper))
    return store


class _Wrapped:
    """A store's or repository's method, wrapped. It can be pickled with its store."""

    def __init__(self, method: Callable[..., Any], wrapper: Callable[..., Any]) -> None:
        self._method = method
        self._wrapper = wrapper

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrapper(self._method, *args, **kwargs)


def _log_metric(method: Callable[..., Any], run_id: str, metric: Any) -> Any:
    receiver = _receiver_of(run_id)
    if receiver is None:
        return method(run_id, metric)
    if not _unknown(receiver.unknown_metrics, [metric]):
        return None
    result = method(run_id, metric)
    _told(receiver.add, [metric], [], [])
    return result


def _log_param(method: Callable[..., Any], run_id: str, param: Any) -> Any:
    receiver = _receiver_of(run_id)
    if receiver is None:
        return method(run_id, param)
    if not _unknown(receiver.unknown_params, [param]):
        return None
    result = method(run_id, param)
    _told(receiver.add, [], [param], [])
    return result


def _set_tag(method: Callable[..., Any], run_id: str, tag: Any) -> Any:
    result = method(run_id, tag)
    receiver = _receiver_of(run_id)
    if receiver is not None:
        _told(receiver.add, [], [], [tag])
    return result


def _log_batch(
    method: Callable[..., Any], run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()
) -> Any:
    """Also for `log_batch_async`, which returns before MLflow has accepted the batch."""
    receiver = _receiver_of(run_id)
    if receiver is None:
        return method(run_id, metrics, params, tags)
    metrics = _unknown(receiver.unknown_metrics, list(metrics or ()))
    params = _unknown(receiver.unknown_params, list(params or ()))
    result = method(run_id, metrics, params, tags)
    _told(receiver.add, metrics, params, list(tags or ()))
    return result


def _update_run_info(
    method: Callable[..., Any],
    run_id: str,
    run_status: Any = None,
    end_time: Any = None,
    run_name: Any = None,
) -> Any:
    """The run ends with the W&B run, whose replicator writes how."""
    if run_id in _receivers:
        run_status = end_time = None
    return method(run_id, run_status, end_time, run_name)


def _create_logged_model(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    model = method(*args, **kwargs)
    if model.source_run_id in _receivers:
        _models[model.model_id] = model
    return model


def _finalize_logged_model(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    model = method(*args, **kwargs)
    receiver = _receiver_of(model.source_run_id)
    if receiver is not None and _models.pop(model.model_id, None) is not None:
        _told(receiver.end_model, model)
    return model


def _unknown(method: Callable[..., list[Any]], entities: list[Any]) -> list[Any]:
    found: list[Any] | None = _told(method, entities) if entities else []
    return entities if found is None else found


_WRAPPERS: Mapping[str, Callable[..., Any]] = {
    "log_metric": _log_metric,
    "log_param": _log_param,
    "set_tag": _set_tag,
    "log_batch": _log_batch,
    "log_batch_async": _log_batch,
    "update_run_info": _update_run_info,
    "create_logged_model": _create_logged_model,
    "finalize_logged_model": _finalize_logged_model,
}


# -- artifacts ------------------------------------------------------------------------------------


def _wrap_repository(repository: Any, owner: str) -> None:
    """Wrap what uploads files; ``owner`` is the id of the run or logged model that gets them."""
    for name, wrapper in (("log_artifact", _log_artifact), ("log_artifacts", _log_artifacts)):
        method = getattr(repository, name)
        if not isinstance(method, _Wrapped):
            setattr(repository, name, _Wrapped(method, functools.partial(wrapper, owner)))


class _Uploading(threading.local):
    """Whether this thread is in a repository's method, which may call another one of it."""

    now = False


_uploading = _Uploading()


def _log_artifact(
    owner: str, method: Callable[..., Any], local_file: Any, artifact_path: str | None = None
) -> Any:
    name = os.path.basename(local_file)
    path = posixpath.join(artifact_path or "", name)
    return _log_files(
        owner, lambda: method(local_file, artifact_path), lambda: {path: Path(local_file)}
    )


def _log_artifacts(
    owner: str, method: Callable[..., Any], local_dir: Any, artifact_path: str | None = None
) -> Any:
    def files() -> dict[str, Path]:
        folder = Path(local_dir)
        found = sorted(file for file in folder.rglob("*") if file.is_file())
        inside = ((file, file.relative_to(folder).as_posix()) for file in found)
        return {posixpath.join(artifact_path or "", path): file for file, path in inside}

    return _log_files(owner, lambda: method(local_dir, artifact_path), files)


def _log_files(
    owner: str, upload: Callable[[], Any], files: Callable[[], Mapping[str, Path]]
) -> Any:
    if _uploading.now:
        return upload()
    _uploading.now = True
    try:
        result = upload()
    finally:
        _uploading.now = False
    model = _models.get(owner)
    receiver = _receiver_of(owner if model is None else model.source_run_id)
    if receiver is not None and model is not None:
        _told(receiver.add_model_files, model, files())
    elif receiver is not None:
        _told(receiver.add_files, files())
    return result


def _after_fork() -> None:
    _uploading.now = False


os.register_at_fork(after_in_child=_after_fork)
