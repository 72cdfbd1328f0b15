"""Operations of MLflow's client on runs, as SQL in its database.

A small run takes a dozen operations, and in MLflow's store each of them is an ORM session. The rows
written here are those that ``SqlAlchemyStore`` (MLflow 3.1 to 3.18) writes. Special cases (a value
over a limit, an illegal name, a deleted run, a param that changes) are left to MLflow, which does
them or raises its own error.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlflow_wandb_plugin.core.atomic_files import replaced
from mlflow_wandb_plugin.core.mlflow_terms import NAME_TAG, USER_TAG
from mlflow_wandb_plugin.mapping.names import Limits
from mlflow_wandb_plugin.mlflow_access.own_stores import is_own
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.mlflow_access.sql.dialects import DIALECTS, NameCollisionError
from mlflow_wandb_plugin.mlflow_access.sql.transactions import SharedTransactions, is_active
from mlflow_wandb_plugin.mlflow_access.table_shapes import (
    RUN_COLUMNS,
    RUN_TABLES,
    unknown_shape,
)
from mlflow_wandb_plugin.targets.mlflow.run_client import (
    FoundRun,
    NewRun,
    RepositoryClient,
    RunClient,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run
    from sqlalchemy import Connection

    from mlflow_wandb_plugin.targets.mlflow.run_client import Metrics, Params, Tags

T = TypeVar("T")

INFO_COLUMNS = ("user_id", "status", "start_time", "end_time", "lifecycle_stage", "artifact_uri")
"""Columns that are attributes of MLflow's RunInfo under the same name."""
READ_ROWS = 20_000
_ACTIVE_ONLY = (
    "JOIN experiments ON experiments.experiment_id = runs.experiment_id "
    "AND experiments.lifecycle_stage = 'active' WHERE runs.lifecycle_stage = 'active'"
)
_LEGAL_NAME = re.compile(r"[\w\-:][\w.\- :]*(?:/[\w\-:][\w.\- :]*)*")
_LOCAL = r"file:|/|\./"


def sql_obstacle(client: MlflowClient, transactions: SharedTransactions) -> str:
    """Say why runs cannot be written in SQL; empty if they can."""
    store = type(client._tracking_client.store)
    if not is_own(store):
        return f"the store is not MLflow's own class, but {store.__name__}"
    return unknown_shape(transactions.engine, RUN_TABLES)


def sql_client(client: MlflowClient, transactions: SharedTransactions) -> SqlClient | None:
    """Return a faster client for the database of ``client``; None where there is an obstacle."""
    return None if sql_obstacle(client, transactions) else SqlClient(client, transactions)


class LeftToMlflow(Exception):
    """An operation is a special case that MLflow's client has to do."""


class SqlClient(RepositoryClient):
    """Works on runs in the database, by `SharedTransactions`."""

    shares_transactions = True

    def __init__(self, client: MlflowClient, transactions: SharedTransactions) -> None:
        super().__init__(client, _LOCAL)
        self._transactions = transactions
        self._limits = Limits.installed()
        self._dialect = DIALECTS[transactions.engine.dialect.name]()

    def create_run(self, new: NewRun) -> Run:
        return self._run_or_else(self._creating(new), lambda: RunClient.create_run(self, new))

    def _creating(self, new: NewRun) -> Callable[[Connection], Run]:
        run_id = uuid.uuid4().hex
        start_ms = new.start_ms or int(time.time() * 1000)

        def create(connection: Connection) -> Run:
            if not new.name or len(new.name) > self._limits.run_name:
                raise LeftToMlflow
            self._check_tags(new.tags)
            location = self._artifact_uri(connection, new.experiment_id, run_id)
            values = (
                run_id, new.name, "UNKNOWN", "", "", new.tags.get(USER_TAG, "unknown"), "RUNNING",
                start_ms, None, "", "active", location, int(new.experiment_id), None,
            )  # fmt: skip
            marks = ", ".join("?" * len(values))
            self._dialect.execute(
                connection, f"INSERT INTO runs ({', '.join(RUN_COLUMNS)}) VALUES ({marks})", values
            )
            tags = {**new.tags, NAME_TAG: new.name}
            self._put_tags(connection, run_id, tags)
            return self._run(run_id, dict(zip(RUN_COLUMNS, values, strict=True)), tags)

        return create

    def create_first(
        self, new: NewRun, tag: str, same: Callable[[Mapping[str, str]], bool]
    ) -> Run | None:
        if self._transactions.engine.dialect.name != "sqlite":
            return None

        def create(connection: Connection) -> Run:
            # SQLite has one writer: no other run is created before this one is committed.
            for run_id in self._with_tag(connection, tag, new.tags[tag]):
                if same(self._tags(connection, run_id)):
                    raise LeftToMlflow
            return work(connection)

        work = self._creating(new)
        try:
            return self._transactions.run(create)
        except LeftToMlflow:
            return None

    def _artifact_uri(self, connection: Connection, experiment_id: str, run_id: str) -> str:
        from mlflow.utils import uri

        found = self._dialect.execute(
            connection,
            "SELECT artifact_location FROM experiments WHERE experiment_id = ? "
            "AND lifecycle_stage = 'active'",
            (int(experiment_id),),
        ).scalar()
        if not found:
            raise LeftToMlflow
        return str(uri.append_to_uri_path(found, run_id, "artifacts"))  # type: ignore[no-untyped-call]

    def get_run_data(self, run_id: str) -> Run:
        try:
            with self._transactions.engine.connect() as connection:
                return self._load(connection, run_id)
        except LeftToMlflow:
            return self._client.get_run(run_id)

    def runs_with_tag(self, key: str, value: str, experiment_id: str = "") -> list[Run]:
        with self._transactions.engine.connect() as connection:
            found = self._with_tag(connection, key, value, experiment_id)
            return [self._load(connection, run_id) for run_id in found]

    def find_runs(
        self, wanted: Sequence[str], key: str, value: str | None, experiment_id: str = ""
    ) -> list[FoundRun]:
        values = (key, *self._values(value, experiment_id))
        found = self._tagged(self._runs_with_tag(value, experiment_id), "", values, wanted)
        return [
            FoundRun.of(*run, tags)
            for run, tags in found.items()
            if (key in tags if value is None else tags.get(key) == value)
        ]

    def find_runs_lacking(self, wanted: Sequence[str], key: str, absent: str) -> list[FoundRun]:
        lacking = (
            " AND NOT EXISTS (SELECT 1 FROM tags AS other "
            'WHERE other.run_uuid = runs.run_uuid AND other."key" = ?)'
        )
        found = self._tagged(self._runs_with_tag(None, ""), lacking, (key,), wanted, (absent,))
        return [FoundRun.of(*run, tags) for run, tags in found.items() if key in tags]

    def _tagged(
        self,
        runs: str,
        condition: str,
        values: Sequence[str | int],
        wanted: Sequence[str],
        values_of_condition: Sequence[str] = (),
    ) -> dict[tuple[str, str], dict[str, str]]:
        """Tags ``wanted`` of runs by id and experiment; ``runs`` and ``condition`` are parts of the
        query."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        with self._transactions.engine.connect() as connection:
            rows = self._dialect.execute(
                connection,
                f'SELECT runs.run_uuid, runs.experiment_id, more."key", more.value {runs} '
                f"JOIN tags AS more ON more.run_uuid = runs.run_uuid "
                f'AND more."key" IN ({", ".join("?" * len(wanted))}) {_ACTIVE_ONLY}{condition}',
                (*values, *wanted, *values_of_condition),
            )
            for run_id, experiment, *tag in rows:
                found.setdefault((run_id, str(experiment)), {}).update([tag])
        return found

    def _with_tag(
        self, connection: Connection, key: str, value: str, experiment_id: str = ""
    ) -> list[str]:
        found = self._dialect.query(
            connection,
            'SELECT runs.run_uuid, tags."key", tags.value '
            f"{self._runs_with_tag(value, experiment_id)} {_ACTIVE_ONLY} "
            "ORDER BY runs.start_time DESC, runs.run_uuid",
            (key, *self._values(value, experiment_id)),
        )
        # MySQL's collations find tags that differ in case as well.
        return [run_id for run_id, *tag in found if tag == [key, value]]

    def _runs_with_tag(self, value: str | None, experiment_id: str) -> str:
        """The part of a query that joins the runs with a tag; its values are the tag's key and
        `_values`."""
        return (
            "FROM tags JOIN runs ON runs.run_uuid = tags.run_uuid "
            'AND tags."key" = ?'
            + (" AND tags.value = ?" if value is not None else "")
            + (" AND runs.experiment_id = ?" if experiment_id else "")
        )

    def _values(self, value: str | None, experiment_id: str) -> list[str | int]:
        by_value: list[str | int] = [] if value is None else [value]
        return by_value + ([int(experiment_id)] if experiment_id else [])

    def set_terminated(self, run_id: str, status: str, end_ms: int | None) -> None:
        time_ms = end_ms or int(time.time() * 1000)

        def terminate(connection: Connection) -> None:
            done = self._dialect.execute(
                connection,
                "UPDATE runs SET status = ?, end_time = ? "
                "WHERE run_uuid = ? AND lifecycle_stage = 'active'",
                (status, time_ms, run_id),
            )
            if done.rowcount != 1:
                raise LeftToMlflow

        self._run_or_else(terminate, lambda: self._client.set_terminated(run_id, status, end_ms))

    def widen_run(self, run_id: str, start_ms: int | None, end_ms: int | None) -> None:
        def widen(connection: Connection) -> None:
            for column, earlier, at in (("start_time", ">", start_ms), ("end_time", "<", end_ms)):
                if at is not None:
                    self._dialect.execute(
                        connection,
                        f"UPDATE runs SET {column} = ? WHERE run_uuid = ? "
                        f"AND ({column} IS NULL OR {column} {earlier} ?) "
                        "AND lifecycle_stage = 'active'",
                        (at, run_id, at),
                    )

        self._transactions.run(widen)

    def log_batch(
        self, run_id: str, metrics: Metrics = (), params: Params = (), tags: Tags = ()
    ) -> None:
        def log(connection: Connection) -> None:
            if metrics or len(params) + len(tags) > self._limits.batch_params:
                raise LeftToMlflow
            wanted = {tag.key: tag.value for tag in tags}
            self._check_tags(wanted)
            self._check_active(connection, run_id)
            self._put_params(connection, run_id, params)
            self._put_tags(connection, run_id, wanted)

        self._run_or_else(log, lambda: RunClient.log_batch(self, run_id, metrics, params, tags))

    def delete_tag(self, run_id: str, key: str) -> None:
        def delete(connection: Connection) -> None:
            self._check_active(connection, run_id)
            done = self._dialect.execute(
                connection, 'DELETE FROM tags WHERE run_uuid = ? AND "key" = ?', (run_id, key)
            )
            if done.rowcount != 1:
                raise LeftToMlflow

        self._run_or_else(delete, lambda: self._client.delete_tag(run_id, key))

    def points(self, run_id: str, names: Sequence[str]) -> Iterator[Points]:
        """Yield the points of all metrics in one query, in blocks."""
        columns = '"key", value, timestamp, step, is_nan'
        with self._transactions.engine.connect() as connection:
            streaming = connection.execution_options(stream_results=True)
            found = self._dialect.execute(
                streaming, f"SELECT {columns} FROM metrics WHERE run_uuid = ?", (run_id,)
            )
            while rows := found.fetchmany(READ_ROWS):
                blocks: dict[str, tuple[list[float], list[int], list[int]]] = {}
                for key, value, at, step, nan in rows:
                    values, times, steps = blocks.setdefault(key, ([], [], []))
                    values.append(math.nan if nan else value)
                    times.append(at)
                    steps.append(step)
                yield from (Points(name, *block) for name, block in blocks.items())

    def point_counts(self, run_id: str) -> dict[str, int]:
        query = 'SELECT "key", COUNT(*) FROM metrics WHERE run_uuid = ? GROUP BY "key"'
        with self._transactions.engine.connect() as connection:
            return dict(self._dialect.query(connection, query, (run_id,)))

    def put_text(self, run_id: str, path: str, text: str) -> bool:
        """Write the file to which MLflow's repository of local files would copy it, at a fifth of
        the cost."""
        folder = getattr(self._repositories.get(run_id), "artifact_dir", None)
        if folder is None:
            return False
        target = Path(folder, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # MLflow lists the file that a killed process leaves: the next writer must replace it.
        with replaced(target, target.with_name(f".{target.name}.part")) as part:
            part.write_text(text, encoding="utf-8")
        return True

    def batched(self, steps: Sequence[Callable[[], object]]) -> bool:
        from sqlalchemy.exc import DataError, IntegrityError

        try:
            self._transactions.batched(steps)
        except (LeftToMlflow, NameCollisionError, IntegrityError, DataError):
            return False
        return True

    def _run_or_else(self, work: Callable[[Connection], T], otherwise: Callable[[], T]) -> T:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import DataError, IntegrityError

        try:
            return self._transactions.run(work)
        except (LeftToMlflow, IntegrityError, DataError):
            return otherwise()
        except NameCollisionError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _check_active(self, connection: Connection, run_id: str) -> None:
        if not is_active(connection, run_id):
            raise LeftToMlflow

    def _check_tags(self, tags: Mapping[str, str]) -> None:
        if NAME_TAG in tags:
            raise LeftToMlflow
        for key, value in tags.items():
            self._check(key, value, self._limits.tag_value)

    def _check(self, key: str, value: Any, limit: int) -> None:
        if (
            not isinstance(value, str)
            or len(value) > limit
            or len(key) > self._limits.key
            or not _LEGAL_NAME.fullmatch(key)
        ):
            raise LeftToMlflow

    def _put_tags(self, connection: Connection, run_id: str, tags: Mapping[str, str]) -> None:
        if tags:
            self._dialect.execute(
                connection,
                'INSERT INTO tags ("key", value, run_uuid) VALUES (?, ?, ?) '
                + self._dialect.REPLACE_VALUE,
                [(key, tags[key], run_id) for key in sorted(tags)],
            )
            self._dialect.check_names(connection, "tags", run_id, tags)

    def _put_params(self, connection: Connection, run_id: str, params: Sequence[Param]) -> None:
        if not params:
            return
        rows = {param.key: (param.key, param.value, run_id) for param in params}
        if len(rows) != len(params):
            raise LeftToMlflow
        for param in params:
            self._check(param.key, param.value, self._limits.param_value)
        # A param that exists violates the primary key: then MLflow decides.
        self._dialect.execute(
            connection,
            'INSERT INTO params ("key", value, run_uuid) VALUES (?, ?, ?)',
            list(rows.values()),
        )

    def _load(self, connection: Connection, run_id: str) -> Run:
        """The run as MLflow's client returns it, without its inputs and outputs."""
        from mlflow.entities import Metric, Param

        def rows(columns: str, table: str) -> list[tuple[Any, ...]]:
            query = f"SELECT {columns} FROM {table} WHERE run_uuid = ?"
            return self._dialect.query(connection, query, (run_id,))

        found = rows(", ".join(RUN_COLUMNS), "runs")
        if not found:
            raise LeftToMlflow
        points = rows('"key", value, timestamp, step, is_nan', "latest_metrics")
        metrics = [
            Metric(key, float("nan") if nan else value, at, step)
            for key, value, at, step, nan in points
        ]
        params = [Param(key, value) for key, value in rows('"key", value', "params")]
        columns = dict(zip(RUN_COLUMNS, found[0], strict=True))
        return self._run(run_id, columns, self._tags(connection, run_id), metrics, params)

    def _tags(self, connection: Connection, run_id: str) -> dict[str, str]:
        query = 'SELECT "key", value FROM tags WHERE run_uuid = ?'
        return dict(self._dialect.query(connection, query, (run_id,)))

    def _run(
        self,
        run_id: str,
        columns: Mapping[str, Any],
        tags: Mapping[str, str],
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
    ) -> Run:
        from mlflow.entities import Run, RunData, RunInfo, RunTag

        self._keep_repository(run_id, columns["artifact_uri"])
        # MLflow's class refuses a run whose row has no start.
        unknown_start = {} if columns["start_time"] is not None else {"start_time": 0}
        info = RunInfo(
            run_id=run_id,
            run_name=columns["name"],
            experiment_id=str(columns["experiment_id"]),
            **{name: columns[name] for name in INFO_COLUMNS} | unknown_start,
        )
        run_tags = [RunTag(key, value) for key, value in tags.items()]
        return Run(info, RunData(list(metrics), list(params), run_tags))
