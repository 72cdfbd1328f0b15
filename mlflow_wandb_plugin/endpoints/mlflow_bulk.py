"""Points straight into MLflow's database: the rows that log_batch would leave, without its ORM.

The rules are those of ``SqlAlchemyStore.log_batch``: an exact repeat is ignored; NaN is stored as 0
with ``is_nan``; an infinity as the largest float; ``latest_metrics`` holds the point with the
greatest (step, timestamp, stored value), the one logged first where several are equal; a deleted
run takes no points.
"""

from __future__ import annotations

import contextlib
import io
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from mlflow_wandb_plugin.endpoints.mlflow_client import deleted
from mlflow_wandb_plugin.errors import UsageError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Connection, Engine

TESTED_SCHEMAS = frozenset({"bda7b8c39065", "dc11669786a5"})
"""Alembic revisions (MLflow 3.1 and 3.17) whose metric tables were tried against log_batch."""
COLUMNS = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")
PRIMARY_KEY = {"key", "timestamp", "step", "run_uuid", "value", "is_nan"}
LARGEST = 1.7976931348623157e308
INT64 = 2**63
LOCK_S = 0.5
"""How long a transaction may hold the database; MLflow's own writers wait behind it."""
FEWEST_ROWS, MOST_ROWS = 2_000, 200_000

WritePath: TypeAlias = Literal["auto", "bulk", "api"]
Row: TypeAlias = "tuple[str, float, int, int, bool, str]"


class Points(NamedTuple):
    """Points of one metric as columns of one length: values, Unix ms, steps."""

    name: str
    values: Sequence[float]
    timestamps_ms: Sequence[int]
    steps: Sequence[int]

    def storable(self) -> bool:
        """Whether MLflow would take every point; if not, log_batch says which it refuses."""
        times, steps = self.timestamps_ms, self.steps
        return min(times) >= 0 and max(times) < INT64 and -INT64 <= min(steps) <= max(steps) < INT64


class BulkWriter(Protocol):
    """Whoever takes points of a run in columns."""

    def write(self, run_id: str, blocks: Sequence[Points]) -> None: ...


class SqlBulk:
    """Writes points into the database behind an MLflow store. Thread-safe: one writes at a time.

    Args:
        engine: the store's own.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = _DIALECTS[engine.dialect.name]()
        self._lock = threading.Lock()
        self._rows_at_once = 20_000

    def write(self, run_id: str, blocks: Sequence[Points]) -> None:
        """Write points of one run, in transactions of about `LOCK_S` at most. May be repeated.

        Raises:
            TargetError: the run was deleted.
            sqlalchemy.exc.SQLAlchemyError: the database did not take them.
        """
        start = 0
        while start < len(blocks):
            with self._lock:
                part, start = self._part(blocks, start)
                began = time.monotonic()
                with self._engine.begin() as connection:
                    self._dialect.prepare(connection)
                    _check_active(connection, run_id)
                    self._dialect.insert(connection, run_id, part)
                    self._dialect.upsert_latest(connection, [_latest(p, run_id) for p in part])
                self._learn(sum(len(points.values) for points in part), time.monotonic() - began)

    def _part(self, blocks: Sequence[Points], start: int) -> tuple[list[Points], int]:
        """Blocks for one transaction; each metric name once, so that one upsert says its latest."""
        part: list[Points] = []
        rows = 0
        for points in blocks[start:]:
            rows += len(points.values)
            if part and rows > self._rows_at_once:
                break
            part.append(points)
            start += 1
        return _joined(part), start

    def _learn(self, rows: int, seconds: float) -> None:
        if rows >= FEWEST_ROWS:
            wanted = int(rows * LOCK_S / max(seconds, 1e-3))
            self._rows_at_once = min(MOST_ROWS, max(FEWEST_ROWS, wanted))


def open_bulk(client: MlflowClient) -> SqlBulk:
    """The bulk path into the database behind ``client``.

    Raises:
        UsageError: there is none; the message says why.
    """
    engine = _engine(client)
    if engine.dialect.name not in _DIALECTS:
        raise UsageError(f"no bulk path into {engine.dialect.name}: use --write-path api")
    revision = _revision(engine)
    if revision not in TESTED_SCHEMAS:
        raise UsageError(
            f"the database has schema {revision}, which the bulk path was not tested with: "
            "use --write-path api, or update mlflow-wandb-plugin"
        )
    if not _tables_are_known(engine):
        raise UsageError("the database's metric tables are not MLflow's: use --write-path api")
    return SqlBulk(engine)


def _engine(client: MlflowClient) -> Engine:
    """The engine of the client's store: private to MLflow, and nowhere else used."""
    from sqlalchemy import Engine

    try:
        engine = client._tracking_client.store.engine
    except AttributeError:
        engine = None
    if not isinstance(engine, Engine):
        raise UsageError("the bulk path needs a database as tracking URI: use --write-path api")
    return engine


def _revision(engine: Engine) -> str:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with engine.connect() as connection:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())
    except SQLAlchemyError:
        return "unknown"


def _tables_are_known(engine: Engine) -> bool:
    from sqlalchemy import inspect

    tables = inspect(engine)
    for table in ("metrics", "latest_metrics"):
        if {column["name"] for column in tables.get_columns(table)} != set(COLUMNS):
            return False
    return set(tables.get_pk_constraint("metrics")["constrained_columns"]) == PRIMARY_KEY


def _check_active(connection: Connection, run_id: str) -> None:
    from sqlalchemy import text

    found = connection.execute(
        text("SELECT lifecycle_stage FROM runs WHERE run_uuid = :run_id"), {"run_id": run_id}
    ).scalar()
    if found != "active":
        raise deleted(run_id)


def _joined(blocks: Sequence[Points]) -> list[Points]:
    names = [points.name for points in blocks]
    if len(set(names)) == len(names):
        return list(blocks)
    by_name: dict[str, tuple[list[float], list[int], list[int]]] = {}
    for points in blocks:
        columns = by_name.setdefault(points.name, ([], [], []))
        columns[0].extend(points.values)
        columns[1].extend(points.timestamps_ms)
        columns[2].extend(points.steps)
    return [Points(name, *columns) for name, columns in by_name.items()]


def _columns(points: Points) -> tuple[Sequence[float], Iterable[bool]]:
    """Values as they are stored, and which of them are NaN."""
    if all(map(math.isfinite, points.values)):
        return points.values, repeat(False)
    return [_stored(value) for value in points.values], [value != value for value in points.values]


def _stored(value: float) -> float:
    if math.isfinite(value):
        return value
    return 0.0 if math.isnan(value) else math.copysign(LARGEST, value)


def _rows(points: Points, run_id: str) -> Iterator[Row]:
    values, nan = _columns(points)
    times, steps = points.timestamps_ms, points.steps
    return zip(repeat(points.name), values, times, steps, nan, repeat(run_id), strict=False)


def _latest(points: Points, run_id: str) -> Row:
    """The row that ``latest_metrics`` should hold, were there no others of that name."""
    values, nan = _columns(points)
    # Counting down, the greatest of equal points is the one that came first.
    order = range(0, -len(points.values), -1)
    columns = zip(points.steps, points.timestamps_ms, values, order, nan, strict=False)
    step, at, value, _, is_nan = max(columns)
    return points.name, value, at, step, is_nan, run_id


_INTO = f"INTO {{table}} ({', '.join(COLUMNS)})"
_NEWER = (
    "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value, step = excluded.step, "
    "timestamp = excluded.timestamp, is_nan = excluded.is_nan "
    "WHERE (excluded.step, excluded.timestamp, excluded.value) > "
    "(latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)"
)


class _Sqlite:
    INSERT = f"INSERT {_INTO.format(table='metrics')} VALUES (?,?,?,?,?,?) ON CONFLICT DO NOTHING"
    UPSERT = f"INSERT {_INTO.format(table='latest_metrics')} VALUES (?,?,?,?,?,?) {_NEWER}"

    def prepare(self, connection: Connection) -> None:
        """As MLflow sets up its own sessions."""
        connection.exec_driver_sql("PRAGMA busy_timeout = 20000")
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")

    def insert(self, connection: Connection, run_id: str, part: Sequence[Points]) -> None:
        rows = [row for points in part for row in _rows(points, run_id)]
        connection.exec_driver_sql(self.INSERT, rows)

    def upsert_latest(self, connection: Connection, rows: list[Row]) -> None:
        connection.exec_driver_sql(self.UPSERT, rows)


class _PostgreSql:
    STAGE = "mlflow_wandb_points"
    UPSERT = f"INSERT {_INTO.format(table='latest_metrics')} VALUES (%s,%s,%s,%s,%s,%s) {_NEWER}"

    def prepare(self, connection: Connection) -> None:
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {self.STAGE} (key varchar, value float8, "
            "timestamp bigint, step bigint, is_nan boolean, run_uuid varchar) "
            "ON COMMIT DELETE ROWS"
        )

    def insert(self, connection: Connection, run_id: str, part: Sequence[Points]) -> None:
        lines = io.StringIO()
        for points in part:
            values, nan = _columns(points)
            name = _escaped(points.name)
            for value, at, step, is_nan in zip(
                values, points.timestamps_ms, points.steps, nan, strict=False
            ):
                lines.write(f"{name}\t{value!r}\t{at}\t{step}\t{'ft'[is_nan]}\t{run_id}\n")
        self._copy(connection, lines)
        columns = ", ".join(COLUMNS)
        connection.exec_driver_sql(
            f"INSERT INTO metrics ({columns}) SELECT {columns} FROM {self.STAGE} "
            "ON CONFLICT DO NOTHING"
        )
        # Further parts of the same transaction must not meet these again.
        connection.exec_driver_sql(f"TRUNCATE {self.STAGE}")

    def _copy(self, connection: Connection, lines: io.StringIO) -> None:
        copy = f"COPY {self.STAGE} ({', '.join(COLUMNS)}) FROM STDIN"
        driver: Any = connection.connection.cursor()
        with contextlib.closing(driver) as cursor:
            if hasattr(cursor, "copy_expert"):
                lines.seek(0)
                cursor.copy_expert(copy, lines)
            else:
                with cursor.copy(copy) as stream:
                    stream.write(lines.getvalue())

    def upsert_latest(self, connection: Connection, rows: list[Row]) -> None:
        # In one order, whoever writes: two transactions never wait for each other's rows.
        connection.exec_driver_sql(self.UPSERT, sorted(rows))


def _escaped(text: str) -> str:
    """A text as COPY reads it."""
    for character, escape in (("\\", r"\\"), ("\t", r"\t"), ("\n", r"\n"), ("\r", r"\r")):
        text = text.replace(character, escape)
    return text


_DIALECTS: Mapping[str, type[_Sqlite] | type[_PostgreSql]] = {
    "sqlite": _Sqlite,
    "postgresql": _PostgreSql,
}
