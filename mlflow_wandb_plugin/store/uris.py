"""``wandb+URI``: which URIs can be mirrored, and which ones this process mirrors.

MLflow tests the scheme of its URIs in many places. So ``wandb+`` is removed as early as possible,
and the store is noted in an environment variable, which child processes inherit. This module is
imported while MLflow is being imported, and imports nothing that takes time.
"""

from __future__ import annotations

import hashlib
import os
import re

from mlflow_wandb_plugin.errors import UsageError

PREFIX = "wandb+"
MIRROR = "MLFLOW_WANDB_MIRROR"
"""The environment variable with the MLflow stores that are mirrored into W&B: hashes of their URIs,
or `OFF`."""
OFF = "off"

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
OTHERS = ("http", "https", "databricks", "file")
_INNER = re.compile(rf"(?:(?:{'|'.join(DATABASES)})(?:\+\w+)?|https?|databricks)://|file:")

URI_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_WORKSPACE_STORE_URI",
    "_MLFLOW_SERVER_FILE_STORE",
    "_MLFLOW_SERVER_REGISTRY_STORE",
)
"""Variables from which MLflow reads a store's URI; the last two are those of a server's workers."""


def is_prefixed(uri: object) -> bool:
    return isinstance(uri, str) and uri.startswith(PREFIX)


def native(uri: str) -> str:
    """The URI without ``wandb+``.

    Raises:
        UsageError: MLflow has no such store; the message is one line.
    """
    inner = uri[len(PREFIX) :]
    if inner == "databricks":
        advice = "write wandb+databricks:// or wandb+databricks://PROFILE"
        raise UsageError(f"the tracking URI wandb+databricks lacks its slashes: {advice}")
    if not _INNER.match(inner):
        shown = inner.partition("://")[0] if "://" in inner else inner.partition(":")[0]
        raise UsageError(
            f"wandb+{shown[:40]} mirrors no MLflow store that exists: wandb+ is followed by one of "
            f"{', '.join((*DATABASES, *OTHERS))}, as in wandb+sqlite:///mlflow.db"
        )
    return "databricks" if inner == "databricks://" else inner


def mirror(uri: str) -> None:
    """Let this process and its children mirror the store at the native ``uri`` from now on."""
    mirrored = os.environ.get(MIRROR, "")
    if mirrored != OFF and not is_mirrored(uri):
        os.environ[MIRROR] = ",".join(filter(None, (mirrored, _hash(uri))))


def is_mirrored(uri: object) -> bool:
    """Whether `mirror` was called for the native ``uri``, here or in a parent process."""
    return isinstance(uri, str) and _hash(uri) in os.environ.get(MIRROR, "").split(",")


def any_mirrored() -> bool:
    return os.environ.get(MIRROR, OFF) not in (OFF, "")


def is_server() -> bool:
    """Whether this process is one of an MLflow server's."""
    return "_MLFLOW_SERVER_FILE_STORE" in os.environ


def _hash(uri: str) -> str:
    # The URI may have a password, which must not be in another variable.
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]


_unmirrored: set[str] = set()


def add_unmirrored(uri: object) -> None:
    """Remember that MLflow has built a store of ``uri`` that is not mirrored."""
    if isinstance(uri, str):
        _unmirrored.add(_hash(uri))


def remove_unmirrored(uri: str) -> bool:
    """Forget that MLflow has built such a store; returns whether it has."""
    found = _hash(uri) in _unmirrored
    _unmirrored.discard(_hash(uri))
    return found
