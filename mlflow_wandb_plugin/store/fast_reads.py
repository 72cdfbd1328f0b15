"""MLflow's database stores that read points and runs as rows, without an ORM object for each.

Checks, filters, order and paging tokens are MLflow's: its own methods run first, and read next to
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import sqlalchemy
from mlflow.entities import Metric, Param, Run, RunData, RunTag
from mlflow.store.entities import PagedList
from mlflow.store.tracking.dbmodels.models import (
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.search_utils import SearchUtils
from sqlalchemy.orm import selectinload

from mlflow_wandb_plugin.core.mlflow_terms import NAME_TAG

RUNS_A_QUERY = 500
"""As many as SQLAlchemy asks for at a time, which MLflow's own method uses."""
_without_data: ContextVar[bool] = ContextVar("runs are read without their data", default=False)


class FastReads(SqlAlchemyStore):
    """The methods of MLflow's store that read many rows."""

    def get_metric_history(
        self, run_id: Any, metric_key: Any, max_results: Any = None, page_token: Any = None
    ) -> Any:
        # A page of no point: MLflow's checks, and whether there is any point.
        page: Any = super().get_metric_history(run_id, metric_key, 0, page_token)  # type: ignore[no-untyped-call]
        if page.token is None:
            return page
        offset = SearchUtils.parse_start_offset_from_page_token(page_token)  # type: ignore[no-untyped-call]
        query: Any = (
            sqlalchemy.select(
                SqlMetric.value, SqlMetric.timestamp, SqlMetric.step, SqlMetric.is_nan
            )
            .where(SqlMetric.run_uuid == run_id, SqlMetric.key == metric_key)
            .order_by(SqlMetric.timestamp, SqlMetric.step, SqlMetric.value)
            .offset(offset)
        )
        if max_results is not None:
            query = query.limit(max_results + 1)
        with self.ManagedSessionMaker() as session:
            found = [_metric(metric_key, *row) for row in session.execute(query)]
        if max_results is None or len(found) <= max_results:
            return PagedList(found, None)
        token = SearchUtils.create_page_token(offset + max_results)  # type: ignore[no-untyped-call]
        return PagedList(found[:max_results], token)

    def _search_runs(self, *args: Any, **kwargs: Any) -> Any:
        reset = _without_data.set(True)
        try:
            runs, next_token = super()._search_runs(*args, **kwargs)  # type: ignore[no-untyped-call]
        finally:
            _without_data.reset(reset)
        with self.ManagedSessionMaker() as session:
            return list(_with_data(session, runs)), next_token

    @staticmethod
    def _get_eager_run_query_options() -> Any:
        if not _without_data.get():
            return SqlAlchemyStore._get_eager_run_query_options()  # type: ignore[no-untyped-call]
        kinds = (SqlRun.latest_metrics, SqlRun.params, SqlRun.tags)
        return [selectinload(kind.and_(sqlalchemy.false())) for kind in kinds]


def _metric(key: str, value: float, timestamp: int, step: int, is_nan: bool) -> Metric:
    return Metric(key, float("nan") if is_nan else value, timestamp, step)


def _with_data(session: Any, runs: Sequence[Any]) -> Iterator[Run]:
    """Yield runs with their latest metrics, params and tags."""
    for begin in range(0, len(runs), RUNS_A_QUERY):
        block = runs[begin : begin + RUNS_A_QUERY]
        data: dict[str, tuple[list[Metric], list[Param], list[RunTag]]] = {
            run.info.run_id: ([], [], []) for run in block
        }
        for run_id, *row in _rows(session, SqlLatestMetric, data, "value timestamp step is_nan"):
            data[run_id][0].append(_metric(*row))
        for run_id, *row in _rows(session, SqlParam, data, "value"):
            data[run_id][1].append(Param(*row))
        for run_id, *row in _rows(session, SqlTag, data, "value"):
            data[run_id][2].append(RunTag(*row))
        for run in block:
            whole = RunData(*data[run.info.run_id])
            if not run.info.run_name and whole.tags.get(NAME_TAG):
                run.info._set_run_name(whole.tags[NAME_TAG])
            yield Run(run.info, whole, run.inputs, run.outputs)


def _rows(session: Any, table: Any, run_ids: Any, columns: str) -> Any:
    """Rows of runs: run id, key, and ``columns``."""
    names = ("run_uuid", "key", *columns.split())
    query = sqlalchemy.select(*[getattr(table, name) for name in names])
    return session.execute(query.where(table.run_uuid.in_(list(run_ids))))
