"""MLflow's client for reading: retries, errors of a source, and lists in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from mlflow_wandb_plugin.core.redaction import first_line
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.mlflow_access.faults import SERVERS, is_of_cloud, may_pass

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

PAGE = 200
"""Runs, experiments, models or versions of one answer."""


class StoreClient:
    """Asks one MLflow store.

    Attributes:
        mlflow: MLflow's own client; pass its methods to `ask` or `pages`.
        uri: the store's tracking URI.
    """

    def __init__(self, mlflow: MlflowClient, uri: str, backoff: Backoff | None = None) -> None:
        self.mlflow = mlflow
        self.uri = uri
        self._backoff = backoff or Backoff()
        self._at_server = uri.startswith(SERVERS)

    @property
    def store(self) -> Any:
        """MLflow's store behind its client."""
        return self.mlflow._tracking_client.store

    def ask(self, what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return ``what(*args, **kwargs)``; repeat it while MLflow does not answer.

        Raises:
            SourceError: MLflow refused.
            SourceUnavailableError: it did not answer in time.
        """
        return self._backoff.call(lambda: _translated(self._at_server, what, *args, **kwargs))

    def pages(self, fetch: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Yield what ``fetch`` lists, page by page; it takes a ``page_token``. Raises as `ask`."""
        token: str | None = None
        while True:
            page = self.ask(fetch, *args, page_token=token, **kwargs)
            yield from page
            token = page.token
            if not token:
                return


def _translated(at_server: bool, what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call ``what`` once; errors of MLflow, databases, the network and artifact stores become a
    `SourceError`, or a `SourceUnavailableError` where the call may be repeated."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return what(*args, **kwargs)
    except (
        MlflowException,
        SQLAlchemyError,
        OSError,
        requests.RequestException,
        ImportError,
    ) as error:
        kind = SourceUnavailableError if may_pass(error, at_server) else SourceError
        raise kind(f"MLflow: {first_line(error)}") from error
    except Exception as error:
        if not is_of_cloud(error):
            raise
        raise SourceError(f"artifact store: {first_line(error)}") from error
