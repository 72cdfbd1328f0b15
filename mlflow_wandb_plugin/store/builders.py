"""Build MLflow's own stores and artifact repositories; mirror them, have them write fast."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from mlflow_wandb_plugin.core.training_settings import load_settings
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.sqlite_schema import ensure_tables
from mlflow_wandb_plugin.store import uris
from mlflow_wandb_plugin.store.swap import swapped

TRACKING, REGISTRY = "mlflow.tracking_store", "mlflow.model_registry_store"
DELEGATING = ("runs", "models")
"""Schemes whose repositories use another repository, which is mirrored itself."""


_asking: ContextVar[str | None] = ContextVar("mlflow_wandb_asking", default=None)
"""The tracking URI of MLflow's client that asks for an artifact repository."""


class StoreUriError(MlflowException, UsageError):
    """A prefixed URI of a store that MLflow does not have."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)


def switch_on(uri: str) -> str:
    """Do what a URI's prefix says from now on; returns the native URI.

    Raises:
        StoreUriError: MLflow has no such store.
    """
    try:
        native = uris.switch_on(uri)
    except UsageError as error:
        raise StoreUriError(str(error)) from None
    if uris.forget_outdated(native):
        _forget_built_stores()
    _replace_in_mlflow(uri, native)
    return native


def _forget_built_stores() -> None:
    """Clear MLflow's caches by URI: what they have of the native URI lacks what was switched on."""
    repositories = getattr(
        sys.modules.get("mlflow.tracking._tracking_service.utils"), "_artifact_repos_cache", None
    )
    if repositories is not None:
        repositories.clear()
    for module, name in (
        ("mlflow.tracking._tracking_service.registry", "TrackingStoreRegistry"),
        ("mlflow.tracking._model_registry.registry", "ModelRegistryStoreRegistry"),
    ):
        registry: Any = getattr(sys.modules.get(module), name, None)
        with contextlib.suppress(AttributeError):
            registry._get_store_with_resolved_uri.cache_clear()


def _replace_in_mlflow(uri: str, native: str) -> None:
    """Replace ``uri`` by the native URI in MLflow's own settings, whose scheme it compares.

    They have it where `set_tracking_uri` was not called: a late variable, or a registry URI.
    """
    for variable in uris.URI_VARIABLES:
        if os.environ.get(variable) == uri:
            os.environ[variable] = native
    for module, name in (
        ("mlflow.tracking._tracking_service.utils", "_tracking_uri"),
        ("mlflow.tracking._model_registry.utils", "_registry_uri"),
    ):
        if getattr(sys.modules.get(module), name, None) == uri:
            setattr(sys.modules[module], name, native)


def store_builder(registry: Any, original: Callable[[str], Any], store_uri: str) -> Any:
    """MLflow's builder for ``store_uri``; its stores do what was switched on for the URI.

    Args:
        original: MLflow's ``get_store_builder``, for native URIs.
    """
    native, group = _native_of(store_uri), registry.group_name
    builder = original(native)
    uris.note_built(native)
    if group == REGISTRY and is_active():
        # Any registry may have versions of mirrored runs; that is checked for each version.
        return _registry_builder(builder)
    if group == TRACKING and (_is_mirrored(native) or uris.is_fast(native)):
        return _with_native_uris(builder, _switched_on, ensure_tables)
    if native is store_uri:
        return builder
    return _with_native_uris(builder, lambda store, _: store)


def _is_mirrored(uri: str) -> bool:
    return uris.is_mirrored(uri) and is_active()


def _switched_on(store: Any, uri: str) -> Any:
    """A tracking store that does what was switched on for its native URI."""
    if uris.is_fast(uri):
        from mlflow_wandb_plugin.store.fast_writes import write_fast

        store = write_fast(store)
    if _is_mirrored(uri):
        store = mirrored_tracking(store, uri)
    queue: Any = getattr(store, "_async_logging_queue", None)
    if hasattr(queue, "_logging_func"):
        # It has a bound method of MLflow's class.
        queue._logging_func = store.log_batch
    return store


def _with_native_uris(
    builder: Any, finish: Callable[[Any, str], Any], prepare: Callable[[str], None] | None = None
) -> Any:
    @functools.wraps(builder, updated=())
    def build(*args: Any, **kwargs: Any) -> Any:
        given = [_native_of(value) for value in args]
        named = {name: _native_of(value) for name, value in kwargs.items()}
        uri = str(named.get("store_uri") or (given[0] if given else ""))
        if prepare is not None:
            prepare(uri)
        return finish(builder(*given, **named), uri)

    return build


def _registry_builder(builder: Any) -> Any:
    """A builder of mirrored registries. MLflow sees that it takes a tracking URI, and passes it."""
    takes_tracking_uri = "tracking_uri" in _taken(builder, ("tracking_uri",))

    def build(store_uri: str, tracking_uri: str | None = None) -> Any:
        tracking = _native_of(tracking_uri)
        named = {"tracking_uri": tracking} if takes_tracking_uri else {}
        return mirrored_registry(builder(store_uri=_native_of(store_uri), **named), tracking)

    return build


def _taken(builder: Any, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that a builder takes as arguments."""
    known = inspect.signature(builder).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    return [name for name in names if anything or name in known]


def _native_of(value: Any) -> Any:
    return switch_on(value) if uris.is_prefixed(value) else value


def is_active() -> bool:
    """Whether anything is mirrored: not if ``MLFLOW_WANDB_HOMES`` switches one side off."""
    return uris.any_mirrored() and load_settings().homes == "both"


def mirrored_registry(registry: Any, tracking_uri: str | None) -> Any:
    """``registry`` with its class swapped, so that versions of mirrored runs are journalled.

    Args:
        tracking_uri: native URI of the tracking store with its runs; None is MLflow's own setting.
    """
    from mlflow_wandb_plugin.store.mirrored_runs import current_mirror
    from mlflow_wandb_plugin.store.version_operations import OPERATIONS

    current_mirror().stores.bind(registry, tracking_uri)
    return swapped(registry, OPERATIONS)


def mirrored_tracking(store: Any, uri: str) -> Any:
    """``store`` with its class swapped, so that what it writes is journalled."""
    from mlflow_wandb_plugin.store import delivery, run_operations
    from mlflow_wandb_plugin.store.mirrored_runs import current_mirror

    store = swapped(store, run_operations.OPERATIONS)
    current_mirror().stores.add(store, uri)
    _note_asking_clients()
    delivery.wait_at_exit(load_settings().mirror_wait)
    return store


def _note_asking_clients() -> None:
    """Wrap once the method with which MLflow's client asks for the repository of a run or model:
    the client of MLflow 3.1 does not pass its tracking URI on."""
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

    client: Any = TrackingServiceClient
    original = client._get_artifact_repo
    if hasattr(original, "_mlflow_wandb_original"):
        return

    @functools.wraps(original)
    def get_artifact_repo(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = _asking.set(self.tracking_uri)
        try:
            return original(self, *args, **kwargs)
        finally:
            _asking.reset(token)

    wrapped: Any = get_artifact_repo
    wrapped._mlflow_wandb_original = original
    client._get_artifact_repo = wrapped


def artifact_repository(
    original: Callable[..., Any], artifact_uri: Any, *stores: Any, **named: Any
) -> Any:
    """MLflow's artifact repository of ``artifact_uri``, mirrored.

    Args:
        original: MLflow's ``get_artifact_repository``, for native URIs.
        stores, named: the function's other arguments, which are URIs of stores: the first is the
            tracking URI.
    """
    artifact_uri = uris.without_prefix(str(artifact_uri))
    natives = {name: _native_of(value) for name, value in named.items()}
    given = [_native_of(value) for value in stores]
    repository = original(artifact_uri, *given, **natives)
    named_uri = natives.get("tracking_uri") or next(iter(given), None)
    tracking_uri = named_uri or _native_of(_asking.get())
    not_ours = tracking_uri is not None and not uris.is_mirrored(tracking_uri)
    if not_ours or artifact_uri.partition(":")[0] in DELEGATING or not is_active():
        return repository
    from mlflow_wandb_plugin.store.artifact_operations import OPERATIONS
    from mlflow_wandb_plugin.store.mirrored_runs import current_mirror

    current_mirror().stores.bind(repository, tracking_uri)
    return swapped(repository, OPERATIONS)


# -- for entry points, in versions of MLflow whose registries cannot be wrapped -----------------


def build_store(group: str, store_uri: str, **options: Any) -> Any:
    native = switch_on(store_uri)
    builder = _registry(group).get_store_builder(native)
    taken = {name: options[name] for name in _taken(builder, options)}
    if group == TRACKING:
        ensure_tables(native)
    store = builder(store_uri=native, **taken)
    if group == TRACKING:
        return _switched_on(store, native)
    if not is_active():
        return store
    return mirrored_registry(store, _native_of(options.get("tracking_uri")))


def _registry(group: str) -> Any:
    handlers = sys.modules.get("mlflow.server.handlers")
    name = "_tracking_store_registry" if group == TRACKING else "_model_registry_store_registry"
    if uris.is_server() and handlers is not None:
        return getattr(handlers, name)
    if group == TRACKING:
        from mlflow.tracking._tracking_service import utils as tracking

        return tracking._tracking_store_registry
    from mlflow.tracking._model_registry import utils as models

    untyped: Any = models
    return untyped._get_store_registry()


def build_workspace_store(workspace_uri: str) -> Any:
    from mlflow.tracking._workspace.registry import _get_workspace_store_registry

    native = switch_on(workspace_uri)
    registry: Any = _get_workspace_store_registry()
    return registry.get_store_builder(native)(workspace_uri=native)


def build_scorer_store(tracking_uri: str) -> Any:
    from mlflow.genai.scorers.registry import _scorer_store_registry

    native = switch_on(tracking_uri)
    registry: Any = _scorer_store_registry
    return registry.get_store_builder(native)(tracking_uri=native)


def build_repository(artifact_uri: str, *stores: str | None, **named: str | None) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    get = _artifact_repository_registry.get_artifact_repository
    return artifact_repository(get, artifact_uri, *stores, **named)
