"""MLflow's client for reading: retries, errors of a source, and lists in pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.mlflow_access.faults import (
    WAIT_STATUS,
    is_of_cloud,
    is_untrusted,
    permanent_code,
    status_in,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

PAGE = 200
"""Runs, experiments, models or versions of one answer."""
_PASSING = frozenset(("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"))
"""MLflow's error codes after which a request may be repeated."""
_PASSING_OF_SERVER = frozenset(("INTERNAL_ERROR", *_PASSING))
"""Those of a server: MLflow's client gives this code to broken connections, too."""


_ANSWER = re.compile(r"\b(\d{3}) (?:Client|Server) Error")


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
        at_server = uri.startswith(("http://", "https://", "databricks"))
        self._passing = _PASSING_OF_SERVER if at_server else _PASSING

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
        return self._backoff.call(lambda: _translated(self._passing, what, *args, **kwargs))

    def pages(self, fetch: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Yield what ``fetch`` lists, page by page; it takes a ``page_token``. Raises as `ask`."""
        token: str | None = None
        while True:
            page = self.ask(fetch, *args, page_token=token, **kwargs)
            yield from page
            token = page.token
            if not token:
                return


def _translated(passing: frozenset[str], what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call ``what`` once; errors of MLflow, databases, the network and artifact stores become a
    `SourceError`, or a `SourceUnavailableError` where the call may be repeated.

    Args:
        passing: MLflow's error codes after which it may be.
    """
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    try:
        return what(*args, **kwargs)
    except MlflowException as error:
        text, code = first_line(error), str(getattr(error, "error_code", ""))
        # A failed download has the server's answer in a later line.
        found = _ANSWER.search(str(error))
        status = int(found[1]) if found else status_in(text)
        passes = status in WAIT_STATUS or (code in passing and not 400 <= status < 500)
        if passes and not permanent_code(error) and not is_untrusted(error):
            raise SourceUnavailableError(f"MLflow: {text}") from error
        raise SourceError(f"MLflow: {text}") from error
    except (OperationalError, requests.RequestException) as error:
        if permanent_code(error) or is_untrusted(error):
            raise SourceError(f"MLflow: {first_line(error)}") from error
        raise SourceUnavailableError(f"MLflow: {first_line(error)}") from error
    except (SQLAlchemyError, OSError, ImportError) as error:
        raise SourceError(f"MLflow: {first_line(error)}") from error
    except Exception as error:
        if not is_of_cloud(error):
            raise
        raise SourceError(f"artifact store: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without credentials."""
    lines = str(error).strip().splitlines()
    return without_credentials(lines[0] if lines else type(error).__name__)[:500]
