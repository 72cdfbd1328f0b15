"""MLflow's client, with retries: its errors are sorted into unavailable and refused."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetError, TargetUnavailableError, UsageError
from mlflow_wandb_plugin.mapping.names import Limits
from mlflow_wandb_plugin.sqlite_schema import ensure_tables
from mlflow_wandb_plugin.targets.mlflow.run_client import (
    KEPT_BY_SERVER,
    Metrics,
    Params,
    RepositoryClient,
    RunClient,
    Tags,
)
from mlflow_wandb_plugin.targets.mlflow.sql.transactions import is_data_fault

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, RunTag

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
WAIT_STATUS = ("408", "425", "429", "500", "502", "503", "504")
TOO_LARGE = "413"
_STATUS_IN_TEXT = re.compile(r"failed with error code (\d{3})|status code:? (\d{3})")


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
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    files = (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError)
    try:
        ensure_tables(uri or default_uri())
        return MlflowClient(tracking_uri=uri)
    except (MlflowException, ImportError, TargetError, *files) as error:
        shown, reason = without_credentials(uri or ""), _first_line(error)
        raise UsageError(f"MLflow cannot use the tracking URI {shown}: {reason}") from error


def deleted(run_id: str) -> TargetError:
    """The error for a run that was deleted while it was written."""
    return TargetError(
        f"the MLflow run {run_id} was deleted: restore it (mlflow runs restore), "
        "or backfill the W&B run into a new one"
    )


def default_uri() -> str:
    """MLflow's own tracking URI, for a client that is given none."""
    import mlflow

    return str(mlflow.get_tracking_uri())


def check_reachable(uri: str) -> None:
    """Raise a TargetUnavailableError if an http(s) tracking server takes no connection: MLflow's
    client would retry for minutes. Other URIs, and servers behind a proxy, are not checked."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or not address.hostname:
        return
    if {address.scheme, "all"} & set(getproxies()) and not proxy_bypass(address.hostname):
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=5).close()
    except OSError as error:
        shown = without_credentials(uri)
        raise TargetUnavailableError(f"MLflow at {shown} cannot be reached: {error}") from error


def translated(what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call ``what`` once; MLflow's, SQLAlchemy's and the network's errors become a RefusedError
    or a TargetUnavailableError."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DataError, SQLAlchemyError

    try:
        return what(*args, **kwargs)
    except MlflowException as error:
        code, cause = str(getattr(error, "error_code", "")), error.__cause__
        text = _first_line(error)
        # MLflow gives most answers that are not JSON the same code.
        found = _STATUS_IN_TEXT.search(text)
        status = "" if found is None else found[1] or found[2]
        if status == TOO_LARGE or isinstance(cause, _UNSTORABLE) or is_data_fault(cause):
            raise RefusedError(f"MLflow: {text}", "BAD_REQUEST") from error
        if _POINT_EXISTS.search(str(error)):
            raise RefusedError(f"MLflow: {text}", EXISTS) from error
        refused = code in _PERMANENT or status.startswith("4")
        if refused and status not in WAIT_STATUS:
            raise RefusedError(f"MLflow: {text}", code) from error
        raise TargetUnavailableError(f"MLflow: {text}") from error
    except (DataError, *_UNSTORABLE) as error:
        raise RefusedError(f"MLflow: {_first_line(error)}", "BAD_REQUEST") from error
    except (SQLAlchemyError, requests.RequestException, OSError) as error:
        raise TargetUnavailableError(f"MLflow: {_first_line(error)}") from error


_UNSTORABLE = (OverflowError, UnicodeError)
"""Errors of values that the store or the protocol cannot hold; internal errors for MLflow."""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return without_credentials(lines[0] if lines else type(error).__name__)[:500]
