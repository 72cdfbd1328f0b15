"""Read the points of an MLflow run: from its database, from a server in pages, or by MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mlflow_wandb_plugin.mlflow_access.table_shapes import METRIC_TABLES, unknown_shape
from mlflow_wandb_plugin.sources.mlflow.point_spool import PointSpool
from mlflow_wandb_plugin.sources.mlflow.store_client import StoreClient

PAGE_POINTS = 25_000
"""Points of one answer; the most that MLflow's server returns."""


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
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = client.store
    if type(store) is SqlAlchemyStore and not client.ask(
        unknown_shape, store.engine, METRIC_TABLES
    ):
        return SqlReader(client)
    if type(store) is RestStore:
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
    """Requests the points of each metric page by page: MLflow's client would keep all pages."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    def read(self, run_id: str, keys: Sequence[str], spool: PointSpool) -> None:
        for key in keys:
            token: str | None = None
            while True:
                page = self._client.ask(
                    self._client.store.get_metric_history, run_id, key, PAGE_POINTS, token
                )
                _add(spool, key, page)
                token = page.token
                if not token:
                    break
        spool.sort()

    def counts(self, run_id: str) -> None:
        return None


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
