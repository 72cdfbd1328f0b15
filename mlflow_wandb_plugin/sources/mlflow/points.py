"""Read the points of an MLflow run: from its database, from a server in pages, or by MLflow."""

from __future__ import annotations

import itertools
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from mlflow_wandb_plugin.mlflow_access.own_stores import is_own
from mlflow_wandb_plugin.mlflow_access.table_shapes import METRIC_TABLES, unknown_shape
from mlflow_wandb_plugin.sources.mlflow.point_spool import PointSpool
from mlflow_wandb_plugin.sources.mlflow.store_client import StoreClient

PAGE_POINTS = 25_000
"""Points of one answer; the most that MLflow's server returns."""
REQUESTS_AT_ONCE = 4
GET_HISTORY = "/api/2.0/mlflow/metrics/get-history"


class PointReader(Protocol):
    """Reads the points of runs.

    Raises from every method:
        SourceError: they cannot be read.
    """

    def read(self, run_id: str, keys: Sequence[str], spool: PointSpool) -> None:
        """Add all points of a run to ``spool``; ``keys`` are its metrics."""

    def counts(self, run_id: str) -> Mapping[str, int] | None:
        """Return the number of points by metric; None where counting is reading."""


def point_reader(client: StoreClient) -> PointReader:
    """Return the fastest reader for the store of ``client``."""
    from mlflow.store.tracking.rest_store import RestStore

    store = client.store
    if is_own(type(store)) and not client.ask(unknown_shape, store.engine, METRIC_TABLES):
        return SqlReader(client)
    if type(store) is RestStore and not store.get_host_creds().use_databricks_sdk:
        return PageReader(client)
    return CallReader(client)


class SqlReader:
    """One ordered query for all points of a run. The rows come by a cursor of the database's."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client
        self._engine = client.store.engine
        quote = "`" if self._engine.dialect.name == "mysql" else '"'
        self._key, self._time = f"{quote}key{quote}", f"{quote}timestamp{quote}"
        self._mark = "?" if self._engine.dialect.paramstyle == "qmark" else "%s"

    def read(self, run_id: str, keys: Sequence[str], spool: PointSpool) -> None:
        order = f"{self._time}, step, {self._key}, is_nan, value"
        query = (
            f"SELECT {self._key}, value, {self._time}, step, is_nan FROM metrics "
            f"WHERE run_uuid = {self._mark} ORDER BY {order}"
        )
        self._client.ask(self._copy, query, run_id, spool)

    def counts(self, run_id: str) -> Mapping[str, int]:
        query = (
            f"SELECT {self._key}, COUNT(*) FROM metrics WHERE run_uuid = {self._mark} "
            f"GROUP BY {self._key}"
        )

        def count() -> dict[str, int]:
            with self._engine.connect() as connection:
                rows = connection.exec_driver_sql(query, (run_id,))
                return {str(key): int(number) for key, number in rows}

        return self._client.ask(count)

    def _copy(self, query: str, run_id: str, spool: PointSpool) -> None:
        """Add the query's rows to ``spool``; after an error, the call begins anew."""
        spool.clear()
        with self._engine.connect().execution_options(stream_results=True) as connection:
            rows = connection.exec_driver_sql(query, (run_id,))
            while part := rows.fetchmany(PAGE_POINTS):
                keys, values, times, steps, is_nan = zip(*part, strict=True)
                if any(is_nan):
                    nan = float("nan")
                    values = tuple(
                        nan if flag else v for v, flag in zip(values, is_nan, strict=True)
                    )
                spool.add(keys, times, steps, values)


class PageReader:
    """Requests the points of a server page by page, of several metrics at once. Requests go through
    MLflow's `http_request` with its credentials, headers and proxies; only the protobuf messages,
    one for each point, are left out, because they take longer than the server."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client
        self._credentials = client.store.get_host_creds

    def read(self, run_id: str, keys: Sequence[str], spool: PointSpool) -> None:
        pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, "mlflow-wandb-read")
        try:
            waiting: deque[tuple[str, Future[_Page]]] = deque()
            unread = iter(keys)
            for key in itertools.islice(unread, REQUESTS_AT_ONCE):
                waiting.append((key, pool.submit(self._page, run_id, key, "")))
            while waiting:
                key, future = waiting.popleft()
                page = future.result()
                following = key if page.next_token else next(unread, None)
                if following is not None:
                    submitted = pool.submit(self._page, run_id, following, page.next_token)
                    waiting.append((following, submitted))
                spool.add([key] * len(page.values), page.times, page.steps, page.values)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        spool.sort()

    def counts(self, run_id: str) -> None:
        return None

    def _page(self, run_id: str, key: str, token: str) -> _Page:
        return self._client.ask(self._request, run_id, key, token)

    def _request(self, run_id: str, key: str, token: str) -> _Page:
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        asked = {"run_id": run_id, "metric_key": key, "max_results": PAGE_POINTS}
        response = http_request(  # type: ignore[no-untyped-call]
            self._credentials(),
            GET_HISTORY,
            "GET",
            params=asked | ({"page_token": token} if token else {}),
        )
        verify_rest_response(response, GET_HISTORY)
        document = response.json()
        points = document.get("metrics", ())
        return _Page(
            array("q", (int(point.get("timestamp", 0)) for point in points)),
            # JSON leaves out what is 0.
            array("q", (int(point.get("step", 0)) for point in points)),
            array("d", (float(point.get("value", 0)) for point in points)),
            str(document.get("next_page_token") or ""),
        )


class _Page(NamedTuple):
    """Points of one answer as columns, and how to ask for the next."""

    times: array[int]
    steps: array[int]
    values: array[float]
    next_token: str


class CallReader:
    """Calls MLflow's client once for each metric: for stores that have no pages."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    def read(self, run_id: str, keys: Sequence[str], spool: PointSpool) -> None:
        history: Callable[..., Any] = self._client.mlflow.get_metric_history
        for key in keys:
            _add(spool, key, self._client.ask(history, run_id, key))
        spool.sort()

    def counts(self, run_id: str) -> None:
        return None


def _add(spool: PointSpool, key: str, points: Sequence[Any]) -> None:
    times = [point.timestamp for point in points]
    steps = [point.step for point in points]
    spool.add([key] * len(points), times, steps, [point.value for point in points])
