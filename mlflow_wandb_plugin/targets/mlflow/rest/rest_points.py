"""Sends points to a tracking server, in full requests and several at once.

They are sent by MLflow's `http_request` with its credentials, headers, proxies and retries: as
Arrow where the server takes that, else as the requests of `RestStore.log_batch` (MLflow 3.1 to
3.18), of which only the protobuf messages, one object per point, are left out. In the latter the
server compares each point with its metric's latest one, and two requests at once may compare with
the same one: each metric's latest point is sent first.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from mlflow_wandb_plugin.core.limiter import Limiter
from mlflow_wandb_plugin.errors import TargetUnavailableError, UsageError
from mlflow_wandb_plugin.mapping.names import Limits
from mlflow_wandb_plugin.mlflow_access import arrow_points
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points, joined
from mlflow_wandb_plugin.targets.mlflow.client import Client, translated
from mlflow_wandb_plugin.targets.mlflow.rest import arrow_offer
from mlflow_wandb_plugin.targets.mlflow.rest.arrow_offer import LOG_BATCH

if TYPE_CHECKING:
    from requests import Response

REQUESTS_AT_ONCE = 4
ASKED_TO_WAIT = (429, 503)
RETRIED_BY_MLFLOW = frozenset({408, 500, 502, 504})
"""Statuses that MLflow retries, without those that slow down the limiter."""


class Body(NamedTuple):
    """What is sent in one request.

    Attributes:
        receipt: the answer that says that points were taken as Arrow; None for log-batch.
    """

    content: bytes
    path: str = LOG_BATCH
    content_type: str = "application/json"
    receipt: Mapping[str, int] | None = None


class ArrowNotTakenError(Exception):
    """The server does not take points as Arrow, or no longer."""


class RestBulk:
    """A `BulkWriter` through a tracking server that `open_rest` has checked. Thread-safe: all
    runs and all targets of this process on one server share one limit."""

    backs_off = True

    def __init__(self, client: Client) -> None:
        self._client = client
        self._credentials = client.mlflow._tracking_client.store.get_host_creds
        self._limiter = _limiter_of(client.uri)
        self._offer = arrow_offer.offer_of(client.uri)
        self._size = Limits.installed().batch_metrics

    def fits(self, blocks: Sequence[Points]) -> bool:
        """False: a server offers no transactions."""
        return False

    def write(self, run_id: str, blocks: Sequence[Points]) -> None:
        """Write points of one run. May be repeated.

        Raises:
            RefusedError: MLflow refused a request; other requests may have been accepted.
            TargetUnavailableError
        """
        blocks = joined(blocks)
        if self._offer is not None and self._offer.holds(self._credentials(), run_id):
            try:
                self._send_all(_arrow_bodies(run_id, blocks))
            except ArrowNotTakenError:
                # What it has taken already is sent again, and ignored there.
                self._offer.withdraw()
            else:
                return
        bodies = self._bodies(run_id, blocks)
        for body in islice(bodies, -(-len(blocks) // self._size)):
            self._client.call(self._post, body)
        self._send_all(bodies)

    def _send_all(self, bodies: Iterator[Body]) -> None:
        """Send several at once, in any order."""
        pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, "mlflow-wandb-points")
        try:
            waiting: set[Future[None]] = set()
            for body in bodies:
                waiting.add(pool.submit(self._client.call, self._post, body))
                if len(waiting) >= 2 * REQUESTS_AT_ONCE:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            for future in waiting:
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _bodies(self, run_id: str, blocks: Sequence[Points]) -> Iterator[Body]:
        """Bodies of requests; the latest points of all metrics are in the first ones."""
        split = [(points, points.latest_at()) for points in blocks]
        parts = chain(
            (points.cut(at, at + 1) for points, at in split),
            (
                part
                for points, at in split
                for part in (points.cut(0, at), points.cut(at + 1, None))
            ),
        )
        metrics = chain.from_iterable(map(_metrics, parts))
        while batch := list(islice(metrics, self._size)):
            content = f'{{"run_id": {json.dumps(run_id)}, "metrics": [{", ".join(batch)}]}}'
            yield Body(content.encode())

    def _post(self, body: Body) -> None:
        with self._limiter.turn():
            translated(self._request, body)

    def _request(self, body: Body) -> None:
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        response = http_request(  # type: ignore[no-untyped-call]
            self._credentials(),
            body.path,
            "POST",
            extra_headers={"Content-Type": body.content_type},
            retry_codes=RETRIED_BY_MLFLOW,
            respect_retry_after_header=False,
            data=body.content,
        )
        if body.receipt is not None:
            _check_taken(response, body.receipt)
        if response.status_code in ASKED_TO_WAIT:
            raise TargetUnavailableError(
                f"MLflow: the server asks to wait ({response.status_code})", _retry_after(response)
            )
        verify_rest_response(response, body.path)


def _arrow_bodies(run_id: str, blocks: Sequence[Points]) -> Iterator[Body]:
    path = f"{arrow_offer.PATH}?{urlencode({'run_id': run_id})}"
    for part in arrow_points.parts(blocks):
        content = translated(arrow_points.encode, part)
        receipt = arrow_points.receipt(part)
        yield Body(content, path, arrow_points.CONTENT_TYPE, receipt)


def _check_taken(response: Response, receipt: Mapping[str, int]) -> None:
    """Raise ArrowNotTakenError for an answer of somebody who does not know such requests; not for
    MLflow's errors, and those of a server in trouble."""
    status = response.status_code
    if status != 200 and status not in arrow_offer.NOT_TAKEN:
        return
    try:
        answer = response.json()
    except ValueError:
        answer = None
    absent = isinstance(answer, dict) and answer.get("error_code") == "RESOURCE_DOES_NOT_EXIST"
    known = answer == receipt if status == 200 else absent
    if not known:
        raise ArrowNotTakenError


_limiters: dict[str, Limiter] = {}
_finding = threading.Lock()


def _limiter_of(uri: str) -> Limiter:
    """The limiter of a server's requests. A replicator has a target for each run: if each of them
    sent as many requests as one may, those of a slow server would time out, and be repeated."""
    with _finding:
        return _limiters.setdefault(uri, Limiter(REQUESTS_AT_ONCE, REQUESTS_AT_ONCE))


def open_rest(client: Client) -> RestBulk:
    """Return the bulk writer to the tracking server of ``client``; UsageError if there is none,
    or its store is not MLflow's own class."""
    from mlflow.store.tracking.rest_store import RestStore

    store: Any = client.mlflow._tracking_client.store
    if type(store) is not RestStore or store.get_host_creds().use_databricks_sdk:
        raise UsageError("points can be sent here by MLflow's own client only")
    return RestBulk(client)


def _metrics(points: Points) -> Iterator[str]:
    """Points as protobuf's JSON: numbers that JSON does not have are strings."""
    name = json.dumps(points.name)
    for value, at, step in zip(*points[1:], strict=True):
        number = repr(float(value)) if math.isfinite(value) else _SPECIAL[str(float(value))]
        yield f'{{"key": {name}, "value": {number}, "timestamp": {at}, "step": {step}}}'


_SPECIAL = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


def _retry_after(response: Response) -> float | None:
    """Seconds in a ``Retry-After`` header; None if there is none, or a date."""
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 3600 else None
