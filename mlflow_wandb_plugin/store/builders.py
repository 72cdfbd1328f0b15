"""Builds MLflow's own stores and artifact repositories, and has them mirrored."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.core.tracking_uri import absolute_uri
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.settings import Settings
from mlflow_wandb_plugin.store import uris
from mlflow_wandb_plugin.store.swap import swapped

TRACKING, REGISTRY = "mlflow.tracking_store", "mlflow.model_registry_store"
FOLLOWING = ("runs", "models")
"""Schemes whose repositories hand everything to another one, which is mirrored itself."""


class StoreUriError(MlflowException, UsageError):
    """A ``wandb+`` URI behind which MLflow has no store; one line."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)


def asked_for(uri: str) -> str:
    """The native URI of a store that somebody wants mirrored; it is mirrored from now on.

    Raises:
        StoreUriError: there is no such store.
    """
    try:
        native = uris.native(uri)
    except UsageError as error:
        raise StoreUriError(str(error)) from None
    uris.mirror(native)
    if uris.forget_plain(native):
        _forget_built_stores()
    _make_current(uri, native)
    return native


def _forget_built_stores() -> None:
    """MLflow caches stores by URI; the one of our native URI was built unmirrored."""
    for module, name in (
        ("mlflow.tracking._tracking_service.registry", "TrackingStoreRegistry"),
        ("mlflow.tracking._model_registry.registry", "ModelRegistryStoreRegistry"),
    ):
        registry = getattr(sys.modules.get(module), name, None)
        cached = getattr(registry, "_get_store_with_resolved_uri", None)
        with contextlib.suppress(AttributeError):
            cached.cache_clear()  # type: ignore[union-attr]


def _make_current(uri: str, native: str) -> None:
    """Where MLflow's own settings hold ``uri``, they hold the native URI from now on: wherever it
    compares schemes, `set_tracking_uri` was not asked (a variable set late, a registry URI)."""
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
    """MLflow's builder for ``store_uri``, mirrored if the URI is to be.

    Args:
        original: MLflow's ``get_store_builder``, which knows native URIs.
    """
    native = asked_for(store_uri) if uris.is_prefixed(store_uri) else store_uri
    builder = original(native)
    if not is_active() or not _is_to_be_mirrored(registry.group_name, native):
        if native is store_uri:
            uris.built_plain(native)
            return builder
        return _taking_native(builder, lambda store, _: store)
    return _taking_native(builder, lambda store, uri: mirrored(registry.group_name, store, uri))


def _is_to_be_mirrored(group: str, native: str) -> bool:
    if group == REGISTRY:
        # Versions of mirrored runs may well be in another registry; whether a version belongs to
        # such a run is asked when it is written.
        return True
    return group == TRACKING and uris.is_mirrored(native)


def _taking_native(builder: Any, finish: Callable[[Any, str], Any]) -> Any:
    @functools.wraps(builder, updated=())
    def build(*args: Any, **kwargs: Any) -> Any:
        given = [_native_of(value) for value in args]
        named = {name: _native_of(value) for name, value in kwargs.items()}
        uri = named.get("store_uri") or (given[0] if given else "")
        return finish(builder(*given, **named), str(uri))

    return build


def _native_of(value: Any) -> Any:
    return asked_for(value) if uris.is_prefixed(value) else value


def is_active() -> bool:
    """Whether anything is mirrored: not where one of the two homes is switched off."""
    return uris.any_mirrored() and Settings.load().homes == "both"


def mirrored(group: str, store: Any, uri: str) -> Any:
    """``store`` with its class swapped, so that what it writes is journalled, too."""
    from mlflow_wandb_plugin.store.mirrored_runs import of_this_process

    if group == REGISTRY:
        from mlflow_wandb_plugin.store.version_operations import OPERATIONS

        return swapped(store, OPERATIONS)
    from mlflow_wandb_plugin.store import delivery, run_operations

    store = swapped(store, run_operations.OPERATIONS)
    queue: Any = getattr(store, "_async_logging_queue", None)
    if hasattr(queue, "_logging_func"):
        # It was bound to the plain class's method when the store was made.
        queue._logging_func = store.log_batch
    of_this_process().add_store(store, without_credentials(absolute_uri(uri)))
    delivery.wait_at_exit(Settings.load().mirror_wait)
    return store


def artifact_repository(
    original: Callable[..., Any], artifact_uri: Any, *stores: Any, **named: Any
) -> Any:
    """MLflow's artifact repository of ``artifact_uri``, mirrored.

    Args:
        original: MLflow's ``get_artifact_repository``, which knows native URIs.
        stores, named: what else that function was given: URIs of stores.
    """
    artifact_uri = str(artifact_uri)
    if uris.is_prefixed(artifact_uri):
        artifact_uri = artifact_uri[len(uris.PREFIX) :]
    natives = {name: _native_of(value) for name, value in named.items()}
    repository = original(artifact_uri, *map(_native_of, stores), **natives)
    if artifact_uri.partition(":")[0] in FOLLOWING or not is_active():
        return repository
    from mlflow_wandb_plugin.store.artifact_operations import OPERATIONS

    return swapped(repository, OPERATIONS)


# -- what the entry points say where MLflow's registries cannot be asked first ------------------


def build_store(group: str, store_uri: str, **options: Any) -> Any:
    native = asked_for(store_uri)
    builder = _registry(group).get_store_builder(native)
    known = inspect.signature(builder).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    taken = {name: value for name, value in options.items() if anything or name in known}
    store = builder(store_uri=native, **taken)
    return mirrored(group, store, native) if is_active() else store


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

    native = asked_for(workspace_uri)
    registry: Any = _get_workspace_store_registry()
    return registry.get_store_builder(native)(workspace_uri=native)


def build_scorer_store(tracking_uri: str) -> Any:
    from mlflow.genai.scorers.registry import _scorer_store_registry

    native = asked_for(tracking_uri)
    registry: Any = _scorer_store_registry
    return registry.get_store_builder(native)(tracking_uri=native)


def build_repository(artifact_uri: str, *stores: str | None, **named: str | None) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    get = _artifact_repository_registry.get_artifact_repository
    return artifact_repository(get, artifact_uri, *stores, **named)
