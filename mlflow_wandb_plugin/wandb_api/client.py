"""Send GraphQL operations and downloads to a W&B server, with a request limit and retries.

wandb's own `Api` is not used: it keeps every listed run in memory and creates a folder for each,
its helper process hides the status 429 and the Retry-After header from the limiter, and its scans
lose rows that are exported meanwhile. The operations are those that wandb sends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mlflow_wandb_plugin.core.limiter import Limiter, RequestGate
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError, UsageError
from mlflow_wandb_plugin.wandb_api.address import (
    ProjectAddress,
    default_server,
    find_api_key,
    server_address,
)

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

TIMEOUT_S = (10, 90)
"""Seconds to connect, and between two bytes of an answer."""
UNREACHABLE_S = 8.0
"""Seconds in which a server is tried again that takes no connection and has never answered."""
_CHUNK = 1 << 20
_TEMPORARY_STATUS = frozenset({408, 425, 429, *range(500, 600)})
_TEMPORARY_ERROR = re.compile(
    "(?i)rate limit|timed? ?out|internal (server )?error|temporar|deadline"
)


class WandbClient:
    """A client of one server. Thread-safe.

    Args:
        answered: is set once the server has answered; clients of one server share it.

    Attributes:
        calls: number of requests so far by operation ("Runs", "HistoryPage", …; "download" for
            files), including retries.
    """

    def __init__(
        self,
        address: ProjectAddress,
        limiter: RequestGate | None = None,
        backoff: Backoff | None = None,
        answered: threading.Event | None = None,
    ) -> None:
        self.address = address
        self.calls: Counter[str] = Counter()
        self._limiter: RequestGate = limiter or Limiter()
        self._backoff = backoff or Backoff()
        self._answered = answered or threading.Event()
        self._local = threading.local()
        self._lock = threading.Lock()

    def without_retries(self) -> WandbClient:
        """Return a client that shares this one's limit, and sends each request once."""
        return WandbClient(self.address, self._limiter, Backoff(0.0), self._answered)

    def expect_answers(self) -> None:
        """Wait for the server as for one that has answered before."""
        self._answered.set()

    def for_project(self, address: ProjectAddress) -> WandbClient:
        """Return a client of another project of the server, which shares this one's limit."""
        return WandbClient(address, self._limiter, self._backoff, self._answered)

    # -- GraphQL ----------------------------------------------------------------------------

    def query(self, document: str, **variables: Any) -> dict[str, Any]:
        """Send a GraphQL operation on the client's project; returns its ``data``.

        Raises:
            SourceError: the server refused it.
            SourceUnavailableError: the server did not answer, also after retries.
        """
        operation = re.split(r"[({]", document, maxsplit=1)[0].split()[-1]
        names = {"entity": self.address.entity, "project": self.address.project}
        names = {name: value for name, value in names.items() if f"${name}" in document}
        body = {"operationName": operation, "query": document, "variables": {**names, **variables}}
        return self._retried(operation, lambda: self._post(operation, body))

    def project(self, document: str, **variables: Any) -> dict[str, Any]:
        """Send an operation; returns the ``project`` in its data.

        Raises:
            SourceError: there is no such project.
        """
        found = self.query(document, **variables).get("project")
        if not isinstance(found, dict):
            raise SourceError(
                f"no W&B project {self.address.path} on {self.address.base_url}, "
                "or this API key may not read it"
            )
        return found

    def run(self, document: str, run_id: str, **variables: Any) -> dict[str, Any]:
        """Send an operation; returns the ``run`` in its project.

        Raises:
            SourceError: there is no such run.
        """
        found = self.project(document, run=run_id, **variables).get("run")
        if not isinstance(found, dict):
            raise SourceError(f"no W&B run {self.address.path}/{run_id} on {self.address.base_url}")
        return found

    def pages(self, fetch: Callable[[str | None], Any]) -> Iterator[dict[str, Any]]:
        """Yield the nodes of a GraphQL connection; ``fetch`` returns the page after a cursor."""
        cursor: str | None = None
        while True:
            page = fetch(cursor) or {}
            for edge in page.get("edges") or ():
                yield edge["node"]
            info = page.get("pageInfo") or {}
            before, cursor = cursor, info.get("endCursor")
            if not info.get("hasNextPage") or cursor is None or cursor == before:
                return

    def _post(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        response = self._send(
            "POST",
            f"{self.address.base_url}/graphql",
            data=json.dumps(body),
            headers={"Content-Type": "application/json"},
            allow_redirects=False,
        )
        server = self.address.base_url
        if response.is_redirect:
            target = response.headers.get("Location", "")
            raise SourceError(f"{server} redirects to {target}: use that server's URL")
        try:
            answer = response.json()
        except ValueError as error:
            reason = f"{server} answered {operation} without JSON: is it a W&B server?"
            raise SourceUnavailableError(reason) from error
        answer = answer if isinstance(answer, dict) else {}
        errors, data = answer.get("errors"), answer.get("data")
        if errors or not isinstance(data, dict):
            text = one_line("; ".join(_messages(errors)) or "no data")
            kind = SourceUnavailableError if _TEMPORARY_ERROR.search(text) else SourceError
            raise kind(f"W&B refused {operation}: {text}")
        return data

    # -- downloads --------------------------------------------------------------------------

    def download(self, url: str, local: Path) -> bytes:
        """Download a file; returns its MD5.

        Raises:
            SourceError, SourceUnavailableError: as `query` does.
        """
        if urlsplit(url).scheme not in ("http", "https"):
            raise SourceError(f"W&B keeps a file at {one_line(url)}, which cannot be downloaded")
        return self._retried("download", lambda: self._fetch(url, local))

    def _fetch(self, url: str, local: Path) -> bytes:
        import requests

        digest = hashlib.md5(usedforsecurity=False)
        size = 0
        with self._send("GET", url, stream=True) as response:
            try:
                with open(local, "wb") as file:
                    for chunk in response.iter_content(_CHUNK):
                        file.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
            except requests.RequestException as error:
                raise _no_answer(url, error) from error
            except OSError as error:
                # A full disk must not make the run count as read without the file.
                raise SourceUnavailableError(f"cannot write a download: {error}") from error
            promised = response.headers.get("Content-Length")
            complete = "Content-Encoding" in response.headers or promised in (None, str(size))
        if not complete:
            raise SourceUnavailableError(f"{_host(url)} sent {size} of {promised} bytes of a file")
        return digest.digest()

    # -- one request ------------------------------------------------------------------------

    def _retried(self, kind: str, request: Callable[[], T]) -> T:
        def once() -> T:
            with self._limiter.turn():
                with self._lock:
                    self.calls[kind] += 1
                return request()

        return self._backoff.call(once)

    def _send(self, method: str, url: str, **options: Any) -> requests.Response:
        import requests

        options |= {"timeout": TIMEOUT_S, "auth": self._auth(url)}
        try:
            response = self._session().request(method, url, **options)
        except requests.RequestException as error:
            raise self._no_connection(url, error) from error
        self._answered.set()
        if response.status_code < 400:
            return response
        with response:
            raise self._refusal(url, response)

    def _no_connection(self, url: str, error: requests.RequestException) -> SourceUnavailableError:
        """The error for a request without an answer. A server that has never answered and takes no
        connection is not waited for as long as one that is gone for a moment."""
        unavailable = _no_answer(url, error)
        if not self._answered.is_set() and _is_unconnected(error):
            unavailable.patience_s = UNREACHABLE_S
        return unavailable

    def _refusal(self, url: str, response: requests.Response) -> Exception:
        status = response.status_code
        if status == 401 and self._is_server(url):
            return UsageError(
                f"{_host(url)} does not accept the API key: set WANDB_API_KEY, "
                f"or run `wandb login --host {self.address.base_url}`"
            )
        text = f"{_host(url)} answered {status}: {_explanation(response)}"
        if status in _TEMPORARY_STATUS:
            return SourceUnavailableError(text, _retry_after(response))
        return SourceError(text)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            import requests
            import wandb

            session = self._local.session = requests.Session()
            # The service returns some fields only to clients that look like wandb's public API.
            session.headers["User-Agent"] = f"W&B Public Client {wandb.__version__}"
        return session

    def _auth(self, url: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
        """Send the API key to the server only, not to the signed addresses of other hosts."""

        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
            if self._is_server(url):
                token = base64.b64encode(f"api:{self.address.api_key}".encode()).decode()
                request.headers["Authorization"] = f"Basic {token}"
            return request

        return sign

    def _is_server(self, url: str) -> bool:
        return _origin(url) == _origin(self.address.base_url)


def check_answer(base_url: str = "", api_key: str = "") -> None:
    """Ask a server once who the key belongs to. Empty arguments: those that wandb itself uses.

    Raises:
        UsageError, SourceError, SourceUnavailableError: there is no key, the server refuses it, or
            does not answer.
    """
    base_url = base_url or default_server()
    address = server_address(base_url, api_key or find_api_key(base_url))
    WandbClient(address).without_retries().query("query Viewer { viewer { id } }")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _host(url: str) -> str:
    """Return the host of an address for a message; the rest may contain a signature."""
    return urlsplit(url).hostname or "W&B"


def _no_answer(url: str, error: Exception) -> SourceUnavailableError:
    return SourceUnavailableError(f"{_host(url)} did not answer: {type(error).__name__}")


def _is_unconnected(error: requests.RequestException) -> bool:
    """Whether no connection came about: it was refused, the host is unknown, or not trusted."""
    import requests
    from urllib3.exceptions import NewConnectionError

    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError) or isinstance(error, requests.exceptions.SSLError)


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except (TypeError, ValueError):
        return None


def _explanation(response: requests.Response) -> str:
    try:
        answer = response.json()
    except (ValueError, OSError):
        return response.reason or "no reason given"
    errors = answer.get("errors") or answer.get("error") if isinstance(answer, dict) else None
    return one_line("; ".join(_messages(errors)) or response.reason or "no reason given")


def _messages(errors: Any) -> list[str]:
    listed = errors if isinstance(errors, list) else [errors] if errors else []
    return [str(one.get("message", one) if isinstance(one, dict) else one) for one in listed]


def one_line(text: str) -> str:
    """Return a server's text for a message: in one line, shortened, without control characters."""
    return re.sub(r"\s+", " ", re.sub(r"[\x00-\x1f\x7f]", " ", text)).strip()[:300]
