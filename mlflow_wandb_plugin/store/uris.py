"""``wandb+URI`` and ``fast+URI``: which URIs may have a prefix, and what was asked for which store.

``wandb+`` mirrors a store into W&B, ``fast+`` writes fast into a database; so does ``wandb+``.
MLflow tests the scheme of its URIs in many places. So the prefix is removed as early as possible,
and the store is noted in environment variables, which child processes inherit. This module is
imported while MLflow is being imported, and imports nothing that takes time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re

from mlflow_wandb_plugin.errors import UsageError

logger = logging.getLogger(__name__)

PREFIX = "wandb+"
FAST_PREFIX = "fast+"
MIRROR = "MLFLOW_WANDB_MIRROR"
"""The environment variable with the MLflow stores that are mirrored into W&B: hashes of their URIs,
or `OFF`."""
FAST = "MLFLOW_WANDB_FAST"
"""The environment variable with the databases that are written fast, as in `MIRROR`."""
OFF = "off"

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
OTHERS = ("http", "https", "databricks", "file")
_INNER = re.compile(rf"(?:(?:{'|'.join(DATABASES)})(?:\+\w+)?|https?|databricks)://|file:")

SERVER_STORE = "_MLFLOW_SERVER_FILE_STORE"
URI_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_WORKSPACE_STORE_URI",
    SERVER_STORE,
    "_MLFLOW_SERVER_REGISTRY_STORE",
)
"""Variables from which MLflow reads a store's URI; the last two are those of a server's workers."""


def is_prefixed(uri: object) -> bool:
    return isinstance(uri, str) and uri.startswith((PREFIX, FAST_PREFIX))


def without_prefix(uri: str) -> str:
    """A URI of anything, without the prefix that it may have."""
    return uri.removeprefix(FAST_PREFIX if uri.startswith(FAST_PREFIX) else PREFIX)


def native(uri: str) -> str:
    """The URI of an MLflow store without its prefix.

    Raises:
        UsageError: MLflow has no such store, or not for this prefix; the message is one line.
    """
    inner = without_prefix(uri)
    shown = (inner.partition("://")[0] if "://" in inner else inner.partition(":")[0])[:40]
    if uri.startswith(FAST_PREFIX):
        if not _is_database(inner):
            raise UsageError(
                f"fast+{shown} is no database of MLflow's: fast+ is followed by one of "
                f"{', '.join(DATABASES)}, as in fast+sqlite:///mlflow.db"
            )
        return inner
    if inner == "databricks":
        advice = "write wandb+databricks:// or wandb+databricks://PROFILE"
        raise UsageError(f"the tracking URI wandb+databricks lacks its slashes: {advice}")
    if not _INNER.match(inner):
        raise UsageError(
            f"wandb+{shown} mirrors no MLflow store that exists: wandb+ is followed by one of "
            f"{', '.join((*DATABASES, *OTHERS))}, as in wandb+sqlite:///mlflow.db"
        )
    return "databricks" if inner == "databricks://" else inner


def _is_database(uri: str) -> bool:
    found = _INNER.match(uri)
    return found is not None and found.group().startswith(DATABASES)


def switch_on(uri: str) -> str:
    """Do what the prefix of ``uri`` says, from now on, here and in child processes; returns the
    native URI.

    Raises:
        UsageError: as `native`.
    """
    inner = native(uri)
    if uri.startswith(PREFIX):
        mirror(inner)
    if _is_database(inner):
        _note(FAST, inner)
    return inner


def mirror(uri: str) -> None:
    """Let this process and its children mirror the store at the native ``uri`` from now on."""
    _note(MIRROR, uri)


def use_mirrored(uri: str = "") -> None:
    """Have MLflow use the store at ``uri``, else the one that it uses, and mirror it to W&B.

    A store that cannot be mirrored is used as it is, with a warning.
    """
    import mlflow

    before = mlflow.get_tracking_uri()
    wanted = uri or before
    plain = wanted.removeprefix(PREFIX)
    try:
        if not is_mirrored(native(f"{PREFIX}{plain}")):
            wanted = f"{PREFIX}{plain}"
    except UsageError as error:
        logger.warning("what MLflow's own calls log stays in MLflow: %s", error)
    if wanted != before:
        mlflow.set_tracking_uri(wanted)


def _note(variable: str, uri: str) -> None:
    noted = os.environ.get(variable, "")
    if noted != OFF and not _is_noted(variable, uri):
        os.environ[variable] = ",".join(filter(None, (noted, _hash(uri))))


def _is_noted(variable: str, uri: object) -> bool:
    return isinstance(uri, str) and _hash(uri) in os.environ.get(variable, "").split(",")


def is_mirrored(uri: object) -> bool:
    """Whether `mirror` was called for the native ``uri``, here or in a parent process."""
    return _is_noted(MIRROR, uri)


def is_fast(uri: object) -> bool:
    """Whether the database at the native ``uri`` is written fast."""
    return _is_noted(FAST, uri)


def any_mirrored() -> bool:
    return os.environ.get(MIRROR, OFF) not in (OFF, "")


def any_switched_on() -> bool:
    """Whether any store is mirrored or written fast."""
    return any_mirrored() or os.environ.get(FAST, OFF) not in (OFF, "")


def is_server() -> bool:
    """Whether this process is one of an MLflow server's."""
    return SERVER_STORE in os.environ


def _hash(uri: str) -> str:
    # The URI may have a password, which must not be in another variable.
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]


_built: dict[str, tuple[bool, bool]] = {}


def note_built(uri: object) -> None:
    """Remember that MLflow builds a store of the native ``uri``, and what is switched on for it."""
    if isinstance(uri, str):
        _built[_hash(uri)] = (is_mirrored(uri), is_fast(uri))


def forget_outdated(uri: str) -> bool:
    """Whether MLflow has built a store of ``uri`` before something was switched on for it; that is
    said once."""
    built = _built.get(_hash(uri))
    if built is None or built == (is_mirrored(uri), is_fast(uri)):
        return False
    del _built[_hash(uri)]
    return True
