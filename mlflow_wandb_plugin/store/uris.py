"""``wandb+URI``: which URIs can be mirrored, and which ones this process mirrors.

MLflow tests the scheme of its URIs in many places, so ``wandb+`` is taken off as early as possible
and the store is remembered in an environment variable, which child processes inherit. Imported
while MLflow is being imported: nothing heavy here.
"""

from __future__ import annotations

import hashlib
import os
import re

from mlflow_wandb_plugin.errors import UsageError

PREFIX = "wandb+"
MIRROR = "MLFLOW_WANDB_MIRROR"
"""The variable that tells a process and its children which MLflow stores are mirrored into W&B:
hashes of their URIs, or `OFF`."""
OFF = "off"

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
DRIVERS = {
    "sqlite": ("", "+pysqlite"),
    "postgresql": ("", "+psycopg2", "+psycopg", "+pg8000", "+psycopg2cffi"),
    "mysql": ("", "+pymysql", "+mysqldb", "+mysqlconnector", "+mariadbconnector"),
    "mssql": ("", "+pyodbc", "+pymssql"),
}
"""The schemes that have entry points; with another driver a database URI works, too."""
PLAIN = ("http", "https", "databricks", "file")
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
"""Where MLflow reads a store's URI from its environment; the last two are a server's workers'."""


def schemes() -> tuple[str, ...]:
    """The schemes, without the prefix, that have entry points."""
    return (*(f"{name}{driver}" for name in DATABASES for driver in DRIVERS[name]), *PLAIN)


def is_prefixed(uri: object) -> bool:
    return isinstance(uri, str) and uri.startswith(PREFIX)


def native(uri: str) -> str:
    """The URI as MLflow knows it.

    Raises:
        UsageError: MLflow has no such store; the message is one line that says what to do.
    """
    inner = uri[len(PREFIX) :]
    if inner == "databricks":
        raise UsageError(
            "the tracking URI wandb+databricks lacks its slashes: write wandb+databricks:// "
            "or wandb+databricks://PROFILE"
        )
    if not _INNER.match(inner):
        shown = inner.partition("://")[0] if "://" in inner else inner.partition(":")[0]
        raise UsageError(
            f"wandb+{shown[:40]} mirrors no MLflow store that exists: behind wandb+ stands one of "
            f"{', '.join((*DATABASES, *PLAIN))}, as in wandb+sqlite:///mlflow.db"
        )
    return "databricks" if inner == "databricks://" else inner


def mirror(uri: str) -> None:
    """From now on, this process and its children mirror the store at the native ``uri``."""
    marked = os.environ.get(MIRROR, "")
    if marked != OFF and not is_mirrored(uri):
        os.environ[MIRROR] = ",".join(filter(None, (marked, _mark(uri))))


def is_mirrored(uri: object) -> bool:
    """Whether the store at the native ``uri`` was once asked for with ``wandb+``."""
    return isinstance(uri, str) and _mark(uri) in os.environ.get(MIRROR, "").split(",")


def any_mirrored() -> bool:
    return os.environ.get(MIRROR, OFF) not in (OFF, "")


def is_server() -> bool:
    """Whether this process is one of an MLflow server's."""
    return "_MLFLOW_SERVER_FILE_STORE" in os.environ


def _mark(uri: str) -> str:
    # The URI may hold a password: a variable of our own does not repeat it.
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]


_plain: set[str] = set()


def built_plain(uri: object) -> None:
    """Remember that MLflow holds a store of ``uri`` that is not mirrored."""
    if isinstance(uri, str):
        _plain.add(_mark(uri))


def forget_plain(uri: str) -> bool:
    """Whether MLflow may hold such a store; the answer is given once."""
    mark = _mark(uri)
    found = mark in _plain
    _plain.discard(mark)
    return found
