"""Tell the W&B run whose replica is MLflow's active run what MLflow's calls log.

What they log reaches MLflow's store first, as ever. The methods of that store, of the registry and
of the run's artifacts are wrapped: where a call is about an active replica, its `Receiver` gets the
operations that a mirror of that run would journal. For all other runs they are MLflow's own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import filterfalse
from pathlib import Path
from typing import Any, Protocol

from mlflow_wandb_plugin.core.messages import log_once
from mlflow_wandb_plugin.core.mlflow_retries import few_mlflow_retries
from mlflow_wandb_plugin.core.redaction import first_line
from mlflow_wandb_plugin.mlflow_access.faults import (
    SERVERS,
    is_of_cloud,
    may_pass,
    permanent_code,
)
from mlflow_wandb_plugin.store import (
    artifact_operations,
    run_operations,
    uris,
    version_operations,
    waiting_store,
)
from mlflow_wandb_plugin.store.mirrored_runs import stand_in
from mlflow_wandb_plugin.store.swap import Operation, Steps


class Receiver(Protocol):
    """The W&B run whose replica is active, in the place of a `mirrored_runs.MirroredRun`."""

    def unknown_metrics(self, metrics: Sequence[Any]) -> list[Any]:
        """Return those of MLflow's entities that MLflow does not get from W&B anyway."""

    def unknown_params(self, params: Sequence[Any]) -> list[Any]:
        """Return those of MLflow's entities that MLflow does not get from W&B anyway."""

    def append(self, op: str, **fields: Any) -> None:
        """Take an operation of `journal.outbox` that MLflow has accepted."""

    def add_file(self, source: Path, path: str, model: str | None, stored: bool) -> None:
        """As `mirrored_runs.MirroredRun.add_file`."""

    def wait_for_mlflow(self) -> bool:
        """From now on, MLflow gets what is logged from the W&B run; False if that cannot be."""


receivers: dict[str, Receiver] = {}
"""By the id of the MLflow run. Changed in one step, so that no lock is needed to read it."""


class _ActiveRuns:
    """In the place of a mirror, for a mirror's operations: the active runs alone are mirrored."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[str, int]] = {}

    @property
    def stores(self) -> _ActiveRuns:
        return self

    def store_of(self, instance: Any) -> Any:
        return instance

    def run(self, store: Any, run_id: str) -> Receiver | None:
        return receivers.get(run_id)

    def run_of_model(self, store: Any, model_id: str) -> Receiver | None:
        return receivers.get(self._models.get(model_id, ("", 0))[0])

    def add_model(self, model: Any) -> None:
        if model.source_run_id in receivers:
            now_ms = time.time_ns() // 1_000_000
            self._models.setdefault(model.model_id, (model.source_run_id, now_ms))

    def is_copy(self, metric: Any) -> bool:
        """Whether it is a point that the run had before the model was created to which MLflow's
        `log_model` adds it."""
        return bool(metric.timestamp <= self._models.get(metric.model_id, ("", -1))[1])


_active = _ActiveRuns()


def _told(step: Callable[..., Any], *arguments: Any) -> Any:
    """Call a receiver's method, or a part of a mirror's operation; None if it fails, for MLflow's
    call succeeds all the same, and None at the operation's end."""
    token = stand_in.set(_active)
    try:
        return step(*arguments)
    except StopIteration:
        return None
    except Exception as error:
        log_once(f"what MLflow's calls log does not reach W&B: {type(error).__name__}: {error}")
        return None
    finally:
        stand_in.reset(token)


def wrap_clients() -> None:
    """Wrap once what gives MLflow's clients their stores and repositories."""
    from mlflow.tracing.client import TracingClient
    from mlflow.tracking._model_registry.client import ModelRegistryClient
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

    tracking: Any = TrackingServiceClient
    tracing: Any = TracingClient
    registry: Any = ModelRegistryClient
    if isinstance(tracking.store, _Store):
        return
    for client in (tracking, tracing):
        client.store = _Store(functools.partial(_tracking_store, client.store))
    opened = registry.store.fget
    registry.store = _Store(lambda client: _wrapped(opened(client), _OF_REGISTRY))
    original = tracking._get_artifact_repo

    @functools.wraps(original)
    def get_artifact_repo(self: Any, resource_id: str, *args: Any, **kwargs: Any) -> Any:
        repository = original(self, resource_id, *args, **kwargs)
        return _wrapped(repository, _OF_REPOSITORY, resource_id)

    tracking._get_artifact_repo = get_artifact_repo


class _Store(property):
    """The property with which a client of MLflow gets its store, wrapped."""


def wrap_store(store: Any) -> None:
    """Wrap the methods of a tracking store that no client of `wrap_clients` gives."""
    _wrapped(store, _OF_TRACKING)


def _tracking_store(original: Any, client: Any) -> Any:
    def opened() -> Any:
        return _wrapped(original.fget(client), _OF_TRACKING)

    if not waiting_store.has_runs():
        return opened()
    return waiting_store.RoutedStore(opened, functools.partial(_wrapped, wrappers=_OF_TRACKING))


def _wrapped(instance: Any, wrappers: Mapping[str, Callable[..., Any]], owner: str = "") -> Any:
    """``instance``, its methods wrapped if a replica is active. MLflow keeps one for each URI.

    Args:
        owner: of a repository, the id of its run or logged model.
    """
    for name, wrapper in wrappers.items() if receivers else ():
        method = getattr(instance, name, None)
        if method is not None and not isinstance(method, _Wrapped):
            setattr(instance, name, _Wrapped(method, wrapper, owner))
    return instance


class _Wrapped:
    """A store's or repository's method, wrapped. It can be pickled with its store."""

    def __init__(self, method: Callable[..., Any], wrapper: Callable[..., Any], owner: str) -> None:
        self.method = method
        self._wrapper = wrapper
        self._owner = owner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrapper(_Method(self.method, self._owner), *args, **kwargs)


class _Method:
    """A store's or repository's method. A call about a replica that MLflow does not answer is one
    of `waiting_store` in its place, as all later ones are."""

    def __init__(self, method: Any, owner: str) -> None:
        self.__self__ = method.__self__
        self._method = method
        self._owner = owner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run_id = _replica_among((self._owner, *args, *kwargs.values()))
        if run_id is None or waiting_store.has(run_id):
            return self._method(*args, **kwargs)
        name = self._method.__name__
        retries = few_mlflow_retries() if name in _VALUES else contextlib.nullcontext()
        try:
            with retries:
                return self._method(*args, **kwargs)
        except Exception as error:
            if not _taken_over(run_id, error):
                raise
        other = waiting_store.repository(run_id) if self._owner else waiting_store.store()
        return _unwrapped(other, name)(*args, **kwargs)


def _unwrapped(instance: Any, name: str) -> Callable[..., Any]:
    method = getattr(instance, name)
    found: Callable[..., Any] = method.method if isinstance(method, _Wrapped) else method
    return found


def _replica_among(given: Sequence[Any]) -> str | None:
    """The first of the arguments of a call that is the id of a replica."""
    return next((one for one in given if isinstance(one, str) and one in receivers), None)


def _taken_over(run_id: str, error: Exception) -> bool:
    """Let `waiting_store` answer for the run ``run_id`` if ``error`` says that MLflow does not.

    Returns:
        Whether it answers for the run from now on.
    """
    receiver = receivers.get(run_id)
    if receiver is None or not _passes(error):
        return False
    if not waiting_store.has(run_id):
        if not _told(receiver.wait_for_mlflow):
            return False
        waiting_store.take_over(run_id)
        log_once(
            f"MLflow does not answer ({first_line(error)}): what its calls log to the run {run_id}"
            " reaches it later, with the W&B run"
        )
    return True


def _passes(error: Exception) -> bool:
    """Whether MLflow, or its store of artifacts, may take the same call later."""
    import mlflow

    at_server = uris.without_prefix(mlflow.get_tracking_uri()).startswith(SERVERS)
    return may_pass(error, at_server) or (is_of_cloud(error) and not permanent_code(error))


_VALUES = frozenset(("log_metric", "log_param", "set_tag", "log_batch"))
"""Methods of which W&B keeps everything: training does not wait for MLflow's retries. Of a model it
keeps the files: MLflow may be had again within these."""


class _Inside(threading.local):
    """Whether this thread is in a method that is told, which may call another one."""

    now = False


_inside = _Inside()


def _mirrored(operation: Operation, method: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a method between the two parts of a mirror's operation."""
    if _inside.now or not receivers:
        return method(*args, **kwargs)
    steps = _told(lambda: _begun(operation(method.__self__, *args, **kwargs)))
    # What a method calls itself is a part of it, but where it is about another run.
    _inside.now = steps is not None
    try:
        result = method(*args, **kwargs)
        if steps is not None:
            _told(steps.send, result)
        return result
    finally:
        _inside.now = False
        if steps is not None:
            steps.close()


def _begun(steps: Steps) -> Steps:
    next(steps)
    return steps


def _log_metric(method: Callable[..., Any], run_id: str, metric: Any) -> Any:
    receiver = receivers.get(run_id)
    if receiver is None or _active.is_copy(metric):
        return method(run_id, metric)
    if not _unknown(receiver.unknown_metrics, [metric]):
        return None
    result = method(run_id, metric)
    _tell_batch(receiver, [metric], [], [])
    return result


def _log_param(method: Callable[..., Any], run_id: str, param: Any) -> Any:
    receiver = receivers.get(run_id)
    if receiver is None:
        return method(run_id, param)
    if not _unknown(receiver.unknown_params, [param]):
        return None
    result = method(run_id, param)
    _tell_batch(receiver, [], [param], [])
    return result


def _set_tag(method: Callable[..., Any], run_id: str, tag: Any) -> Any:
    result = method(run_id, tag)
    receiver = receivers.get(run_id)
    if receiver is not None:
        _tell_batch(receiver, [], [], [tag])
    return result


def _log_batch(
    method: Callable[..., Any], run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()
) -> Any:
    """Also for `log_batch_async`, which returns before MLflow has accepted the batch."""
    receiver = receivers.get(run_id)
    if receiver is None:
        return method(run_id, metrics, params, tags)
    metrics = list(metrics or ())
    copies = list(filter(_active.is_copy, metrics))
    news = list(filterfalse(_active.is_copy, metrics))
    news = _unknown(receiver.unknown_metrics, news)
    params = _unknown(receiver.unknown_params, list(params or ()))
    result = method(run_id, [*copies, *news], params, tags)
    _tell_batch(receiver, news, params, tags or ())
    return result


def _tell_batch(
    receiver: Receiver, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]
) -> None:
    batch = {
        "metrics": [[one.key, one.value, one.timestamp, one.step] for one in metrics],
        "params": {one.key: str(one.value) for one in params},
        "tags": {one.key: str(one.value) for one in tags},
    }
    _told(functools.partial(receiver.append, "batch", **batch))


def _update_run_info(
    method: Callable[..., Any],
    run_id: str,
    run_status: Any = None,
    end_time: Any = None,
    run_name: Any = None,
) -> Any:
    """The run ends with the W&B run, whose replicator writes how."""
    if run_id in receivers:
        run_status = end_time = None
    return method(run_id, run_status, end_time, run_name)


def _unknown(method: Callable[..., list[Any]], entities: list[Any]) -> list[Any]:
    found: list[Any] | None = _told(method, entities) if entities else []
    return entities if found is None else found


def _of_mirror(operations: Mapping[str, Operation], names: str) -> dict[str, Callable[..., Any]]:
    """Wrappers of methods with the operations of a mirror, by name."""
    return {name: functools.partial(_mirrored, operations[name]) for name in names.split()}


_OF_TRACKING: Mapping[str, Callable[..., Any]] = {
    "log_metric": _log_metric,
    "log_param": _log_param,
    "set_tag": _set_tag,
    "log_batch": _log_batch,
    "log_batch_async": _log_batch,
    "update_run_info": _update_run_info,
    **_of_mirror(
        run_operations.OPERATIONS,
        "delete_tag log_inputs log_outputs create_logged_model finalize_logged_model "
        "log_logged_model_params set_logged_model_tags delete_logged_model_tag "
        "delete_logged_model start_trace start_trace_v3",
    ),
}
_OF_REGISTRY = _of_mirror(version_operations.OPERATIONS, " ".join(version_operations.OPERATIONS))
_OF_REPOSITORY = _of_mirror(artifact_operations.OPERATIONS, "log_artifact log_artifacts")


def _after_fork() -> None:
    _inside.now = False


os.register_at_fork(after_in_child=_after_fork)
