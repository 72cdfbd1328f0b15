"""The attributes that MLflow's entry points load, while MLflow itself is being imported.

Each of them is created when it is read. In whatever order modules were imported, MLflow is then
loading this group of entry points, and the modules that `strip_uri_prefixes` changes are there.
Modules that take time are imported when a store is built. An exception other than ImportError and
AttributeError would break ``import mlflow``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.store import server_app, uris

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _ENTRIES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        strip_uri_prefixes()
        return _ENTRIES[name]


def strip_uri_prefixes() -> None:
    """Remove the prefixes wherever MLflow would read it. A second call changes nothing."""
    strip_environment()
    strip_command_line(sys.argv, sys.orig_argv)
    module, owner = "mlflow.tracking.registry", "StoreRegistry"
    _replace(module, owner, "get_store_builder", _wrap_get_store_builder)
    module, owner = (
        "mlflow.store.artifact.artifact_repository_registry",
        "ArtifactRepositoryRegistry",
    )
    _replace(module, owner, "get_artifact_repository", _wrap_get_artifact_repository)
    # At this time no other module has imported the function from its module.
    module = "mlflow.tracking._tracking_service.utils"
    _replace(module, "", "set_tracking_uri", _wrap_set_tracking_uri)
    server_app.change_when_imported()


def strip_environment() -> None:
    """Replace URIs in environment variables by their native URIs.

    An invalid one stays: it fails when MLflow builds the store, and not while MLflow is imported.
    """
    for variable in uris.URI_VARIABLES:
        value = os.environ.get(variable, "")
        if uris.is_prefixed(value):
            with contextlib.suppress(UsageError):
                os.environ[variable] = uris.switch_on(value)


def strip_command_line(arguments: list[str], original: list[str]) -> None:
    """Replace URIs in the arguments of the command ``mlflow``, before it reads them.

    A server checks its URIs and passes them to its workers before any store is built.

    Raises:
        SystemExit: MLflow has no such store; the reason is printed, the exit code is 2.
    """
    if not _is_mlflow_command(arguments, original):
        return
    for index, argument in enumerate(arguments):
        option, equals, value = argument.rpartition("=") if argument[:1] == "-" else ("", "", "")
        uri = value if equals else argument
        if uris.is_prefixed(uri):
            try:
                native = uris.switch_on(uri)
            except UsageError as error:
                print(f"mlflow: {error}", file=sys.stderr)
                raise SystemExit(2) from None
            arguments[index] = f"{option}{equals}{native}"


def _is_mlflow_command(arguments: list[str], original: list[str]) -> bool:
    if not arguments:
        return False
    if os.path.basename(arguments[0]) in ("mlflow", "mlflow.exe"):
        return True
    # `python -m mlflow` imports the package before it runs the module.
    position = len(original) - len(arguments)
    module = original[position - 1 : position + 1] if position > 0 else []
    return arguments[0] == "-m" and module == ["-m", "mlflow"]


def _replace(module: str, owner: str, name: str, wrapper: Callable[[Any], Any]) -> None:
    """Wrap a function of MLflow once. In a version that lacks it, the entry points must do."""
    holder: Any = sys.modules.get(module)
    holder = getattr(holder, owner, None) if owner else holder
    original = getattr(holder, name, None)
    if original is not None and not hasattr(original, "_mlflow_wandb_original"):
        wrapped: Any = functools.wraps(original)(wrapper(original))
        wrapped._mlflow_wandb_original = original
        setattr(holder, name, wrapped)


def _builders() -> Any:
    """The module that builds stores. It imports what takes time."""
    from mlflow_wandb_plugin.store import builders

    return builders


def _wrap_set_tracking_uri(original: Callable[..., None]) -> Callable[..., None]:
    def set_tracking_uri(uri: Any) -> None:
        original(_builders().switch_on(uri) if uris.is_prefixed(uri) else uri)

    return set_tracking_uri


def _wrap_get_store_builder(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_store_builder(registry: Any, store_uri: Any) -> Any:
        if uris.any_switched_on() or uris.is_prefixed(store_uri):
            return _builders().store_builder(
                registry, functools.partial(original, registry), store_uri
            )
        uris.note_built(store_uri)
        return original(registry, store_uri)

    return get_store_builder


def _wrap_get_artifact_repository(original: Callable[..., Any]) -> Callable[..., Any]:
    # Which URIs of stores are passed beside the artifact's depends on MLflow's version.
    def get_artifact_repository(
        registry: Any, artifact_uri: Any, *stores: Any, **named: Any
    ) -> Any:
        get = functools.partial(original, registry)
        if uris.any_mirrored() or uris.is_prefixed(artifact_uri):
            get = functools.partial(_builders().artifact_repository, get)
        return get(artifact_uri, *stores, **named)

    return get_artifact_repository


# The signatures of these are MLflow's. Workspace and scorer stores are not mirrored.


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    return _builders().build_store("mlflow.tracking_store", store_uri, artifact_uri=artifact_uri)


def registry_store(store_uri: str, tracking_uri: str | None = None) -> Any:
    return _builders().build_store(
        "mlflow.model_registry_store", store_uri, tracking_uri=tracking_uri
    )


def workspace_provider(workspace_uri: str) -> Any:
    return _builders().build_workspace_store(workspace_uri)


def scorer_store(tracking_uri: str) -> Any:
    return _builders().build_scorer_store(tracking_uri)


def artifact_repository(artifact_uri: str, *stores: str | None, **named: str | None) -> Any:
    """``stores`` and ``named`` are the tracking URI and, in later versions, the registry's."""
    return _builders().build_repository(artifact_uri, *stores, **named)


_ENTRIES = {
    "tracking": tracking_store,
    "registry": registry_store,
    "workspace": workspace_provider,
    "scorer": scorer_store,
    "artifacts": artifact_repository,
}
