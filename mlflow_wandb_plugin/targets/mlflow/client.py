"""MLflow's client, with retries: its errors are sorted into unavailable and refused."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from mlflow_wandb_plugin.core.partial_import import is_partial
from mlflow_wandb_plugin.core.redaction import first_line, without_credentials
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import (
    MlflowWandbError,
    TargetError,
    TargetUnavailableError,
    TargetUnusableError,
    UsageError,
)
from mlflow_wandb_plugin.mapping.names import Limits
from mlflow_wandb_plugin.mlflow_access.address import connect, default_uri
from mlflow_wandb_plugin.mlflow_access.faults import (
    WAIT_STATUS,
    is_of_cloud,
    is_of_sqlalchemy,
    is_untrusted,
    permanent_code,
    status_in,
)
from mlflow_wandb_plugin.mlflow_access.repositories import KEPT_BY_SERVER
from mlflow_wandb_plugin.mlflow_access.sql.transactions import is_data_fault
from mlflow_wandb_plugin.sqlite_schema import ensure_tables
from mlflow_wandb_plugin.targets.mlflow.run_client import (
    Metrics,
    Params,
    RepositoryClient,
    RunClient,
    Tags,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, RunTag
    from mlflow.exceptions import MlflowException

T = TypeVar("T")

EXISTS = "RESOURCE_ALREADY_EXISTS"
ITEM_FAULTS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", EXISTS})
"""MLflow's error codes that one bad item of a batch may cause; others concern the request."""
_POINT_EXISTS = re.compile(
    r"UNIQUE constraint failed: metrics\.|constraint \"metric_pk\"|for key 'metrics\.PRIMARY'"
)
"""The database's words for a point that the run has already. MLflow 3.1 ignores such points, but
for NaN and infinities."""
_PERMANENT = ITEM_FAULTS.union(
    ("RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"),
    ("FEATURE_DISABLED", "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"),
)
"""Error codes of requests that would fail again."""
_POOL_EXHAUSTED = re.compile(r"QueuePool limit of size \d+ overflow -?\d+ reached")
"""SQLAlchemy's words for a server that is too busy: none of its connections to the database was
free for 30 seconds. MLflow answers with BAD_REQUEST."""
TOO_LARGE = 413
READ_ONLY = "readonly database"
_LACKING = " cannot be None"
"""In the error of MLflow's classes for a row of its database that lacks something."""


class RefusedError(TargetError):
    """MLflow refused a request. ``code`` is its error code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class RefusedNamesError(RefusedError):
    """Names of metrics collide with other names of the run in MLflow's database. Only the metrics
    in ``names`` were not written."""

    def __init__(self, message: str, names: frozenset[str]) -> None:
        super().__init__(message, "INVALID_PARAMETER_VALUE")
        self.names = names


class PendingItems:
    """Params and tags of a run that wait; of tags with one key, only the last."""

    def __init__(self) -> None:
        self._run_id = ""
        self._params: dict[str, Param] = {}
        self._tags: dict[str, RunTag] = {}

    def add(self, run_id: str, params: Params, tags: Tags) -> None:
        self._run_id = run_id
        self._params.update((param.key, param) for param in params)
        for tag in tags:
            self._tags.pop(tag.key, None)
            self._tags[tag.key] = tag

    def batches(self) -> Iterator[tuple[str, list[Param], list[RunTag]]]:
        """As few batches as possible within MLflow's limits; the last one has the last tags."""
        size = Limits.installed().batch_params
        *some_params, last_params = _parts(list(self._params.values()), size)
        *some_tags, last_tags = _parts(list(self._tags.values()), size)
        yield from ((self._run_id, params, []) for params in some_params)
        yield from ((self._run_id, [], tags) for tags in some_tags)
        if last_params or last_tags:
            yield self._run_id, last_params, last_tags


def _parts(items: list[T], size: int) -> list[list[T]]:
    """Split a list; at least one part, which may be empty."""
    return [items[start : start + size] for start in range(0, len(items), size)] or [[]]


class _Pending(threading.local):
    """What this thread's steps of `Client.batched` log; None outside of them."""

    items: PendingItems | None = None


class Client:
    """Calls MLflow, and repeats calls while it is unavailable.

    Attributes:
        mlflow: MLflow's own client.
        client: operations on runs, which a target may replace by faster ones.
        Pass the methods of both to `call`.
    """

    def __init__(self, uri: str | None, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()
        self.mlflow = self.call(_opened, uri)
        self.client: RunClient = RepositoryClient(self.mlflow, KEPT_BY_SERVER)
        self.uri: str = self.mlflow.tracking_uri
        self._pending = _Pending()

    def call(self, what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return ``what(*args, **kwargs)``; repeat it while MLflow is unavailable. Raises as
        `translated`."""
        return self._backoff.call(lambda: translated(what, *args, **kwargs))

    def log_batch(
        self, run_id: str, metrics: Metrics = (), params: Params = (), tags: Tags = ()
    ) -> None:
        pending = self._pending.items
        if pending is not None and not metrics:
            pending.add(run_id, params, tags)
            return
        self.call(self.client.log_batch, run_id, metrics, params, tags)

    def batched(self, steps: Sequence[Callable[[], object]]) -> None:
        """Take steps in this order, in one transaction if all of them are done in the database.
        Elsewhere their params and tags are logged together, after everything else.

        Args:
            steps: calls of this client about one run; each may be repeated.

        Raises:
            RefusedError, TargetUnavailableError
        """
        if self.call(self.client.batched, steps) or self._merged(steps):
            return
        for step in steps:
            step()

    def _merged(self, steps: Sequence[Callable[[], object]]) -> bool:
        """Take steps with their params and tags in as few batches as possible; False if MLflow
        refuses a param or tag."""
        pending = self._pending.items = PendingItems()
        try:
            for step in steps:
                step()
        finally:
            self._pending.items = None
        try:
            for run_id, params, tags in pending.batches():
                self.log_batch(run_id, params=params, tags=tags)
        except RefusedError as error:
            if error.code not in ITEM_FAULTS:
                raise
            return False
        return True

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete a tag, unless another process has done so, or a try whose answer was lost."""
        try:
            self.call(self.client.delete_tag, run_id, key)
        except RefusedError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def find_experiment(self, name: str) -> str | None:
        """The active experiment called ``name``, or None."""
        experiment = self.call(self.mlflow.get_experiment_by_name, name)
        if experiment is None or experiment.lifecycle_stage != "active":
            return None
        return str(experiment.experiment_id)


def _opened(uri: str | None) -> MlflowClient:
    """Open MLflow's client of ``uri``; UsageError if MLflow cannot, and repeating does not help."""
    client_class = import_client(uri or "")
    from mlflow.exceptions import MlflowException

    files = (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError)
    try:
        ensure_tables(uri or default_uri())
        return client_class(tracking_uri=uri)
    except Exception as error:
        known = isinstance(error, (MlflowException, ImportError, TargetError, *files))
        if not known and not is_of_sqlalchemy(error, "ArgumentError"):
            raise
        shown, reason = without_credentials(uri or ""), first_line(error)
        raise UsageError(f"MLflow cannot use the tracking URI {shown}: {reason}") from error


def import_client(uri: str) -> type[MlflowClient]:
    """Import the class of a client of ``uri``: one that needs a part of MLflow only, where that is
    possible, and saves time and memory."""
    found: Any
    if is_partial("mlflow") and urlsplit(uri).scheme in ("http", "https"):
        from mlflow_wandb_plugin.mlflow_access import server_client

        found = server_client.ServerClient
    else:
        import mlflow

        found = mlflow.MlflowClient
    return cast("type[MlflowClient]", found)


def deleted(run_id: str) -> TargetError:
    """The error for a run that was deleted while it was written."""
    return TargetError(
        f"the MLflow run {run_id} was deleted: restore it (mlflow runs restore), "
        "or backfill the W&B run into a new one"
    )


def check_reachable(uri: str) -> None:
    """Check that an http(s) tracking server takes connections; see `address.connect`.

    Raises:
        TargetUnavailableError: it takes no connection.
        TargetUnusableError: its certificate is not trusted.
    """
    try:
        connect(uri)
    except ssl.SSLCertVerificationError as error:
        raise _untrusted(f"{without_credentials(uri)}: {error.verify_message}") from error
    except OSError as error:
        shown = without_credentials(uri)
        raise TargetUnavailableError(f"MLflow at {shown} cannot be reached: {error}") from error


def translated(what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call ``what`` once; the errors of MLflow, SQLAlchemy, the network, files and artifact stores
    become a RefusedError, a TargetUnusableError or a TargetUnavailableError."""
    try:
        return what(*args, **kwargs)
    except Exception as error:
        ours = _translation(error)
        if ours is None:
            raise
        raise ours from error


def _translation(error: Exception) -> MlflowWandbError | None:
    """The error of ours for an error of another package; None for any other one."""
    import requests
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return _sorted_exception(error)
    if isinstance(error, _UNSTORABLE) or is_of_sqlalchemy(error, "DataError"):
        return RefusedError(f"MLflow: {first_line(error)}", "BAD_REQUEST")
    known = isinstance(error, (requests.RequestException, OSError, ImportError))
    if known or is_of_sqlalchemy(error, "SQLAlchemyError") or is_of_cloud(error):
        return _sorted(error)
    return None


def _sorted(error: Exception) -> MlflowWandbError:
    """The error of ours for one of the network, of a database or of an artifact store."""
    text = first_line(error)
    if is_untrusted(error):
        return _untrusted(text)
    code = permanent_code(error)
    if code or READ_ONLY in text:
        return RefusedError(f"MLflow: {text}", code or READ_ONLY)
    return TargetUnavailableError(f"MLflow: {text}")


def _sorted_exception(error: MlflowException) -> MlflowWandbError:
    """The error of ours for one of MLflow's."""
    code, cause = str(getattr(error, "error_code", "")), error.__cause__
    text = first_line(error)
    if is_untrusted(error):
        return _untrusted(text)
    status = status_in(text)
    if status == TOO_LARGE or isinstance(cause, _UNSTORABLE) or is_data_fault(cause):
        return RefusedError(f"MLflow: {text}", "BAD_REQUEST")
    if type(cause) is Exception and _LACKING in str(cause):
        return RefusedError(f"MLflow: {text}", "INVALID_STATE")
    if _POOL_EXHAUSTED.search(str(error)):
        return TargetUnavailableError(f"MLflow: {text}")
    if _POINT_EXISTS.search(str(error)):
        return RefusedError(f"MLflow: {text}", EXISTS)
    refused = code in _PERMANENT or 400 <= status < 500
    if refused and status not in WAIT_STATUS:
        return RefusedError(f"MLflow: {text}", code)
    permanent = permanent_code(error)
    if permanent:
        return RefusedError(f"MLflow: {text}", permanent)
    return TargetUnavailableError(f"MLflow: {text}")


def _untrusted(text: str) -> TargetUnusableError:
    return TargetUnusableError(
        f"MLflow's certificate is not trusted: set MLFLOW_TRACKING_SERVER_CERT_PATH, or "
        f"REQUESTS_CA_BUNDLE for an artifact store, to a file with the authority's certificate "
        f"({text})"
    )


_UNSTORABLE = (OverflowError, UnicodeError)
"""Errors of values that the store or the protocol cannot hold; internal errors for MLflow."""
