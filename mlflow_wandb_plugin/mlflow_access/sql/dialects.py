"""SQL with which each database inserts many rows of ``metrics`` and ``latest_metrics`` at once."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.mlflow_access.point_blocks import COLUMNS, Points, Row
from mlflow_wandb_plugin.mlflow_access.sql import sqlite_driver
from mlflow_wandb_plugin.mlflow_access.sql.postgres_copy import copy_points, copy_rows

if TYPE_CHECKING:
    from sqlalchemy import Connection

_INTO = f"INTO {{table}} ({', '.join(COLUMNS)})"
_NEWER = (
    "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value, step = excluded.step, "
    "timestamp = excluded.timestamp, is_nan = excluded.is_nan "
    "WHERE (excluded.step, excluded.timestamp, excluded.value) > "
    "(latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)"
)


class NameCollisionError(Exception):
    """Names that differ for MLflow are equal in the database's collation: ``names`` were written
    into the row of another name, which must be rolled back."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        listed = ", ".join(map(repr, sorted(self.names)))
        super().__init__(
            f"in the database's collation {listed} equals another name that the run has; "
            "rename it, or use a database with a case-sensitive collation"
        )


class Dialect(ABC):
    """Writes within a transaction that the caller begins and ends. The defaults are for a
    case-sensitive collation and ON CONFLICT."""

    QUOTE = '"'
    """The quote around column names that are reserved words."""
    REPLACE_VALUE = "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value"
    """The end of an INSERT into ``tags`` that replaces the value of a tag that exists."""

    def execute(self, connection: Connection, sql: str, values: Any) -> Any:
        """Execute SQL with ``?`` for values and ``"`` for quotes, in the database's own syntax."""
        mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
        return connection.exec_driver_sql(sql.replace("?", mark).replace('"', self.QUOTE), values)

    def query(self, connection: Connection, sql: str, values: Any) -> list[tuple[Any, ...]]:
        """Execute a query that is written as for `execute`; returns its rows."""
        return [tuple(row) for row in self.execute(connection, sql, values)]

    @abstractmethod
    def insert(self, connection: Connection, run_id: str, part: Sequence[Points]) -> None:
        """Insert points into ``metrics``; skip those that exist."""

    @abstractmethod
    def insert_rows(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Insert some rows of any runs into ``metrics``, in few statements; skip those that
        exist."""

    @abstractmethod
    def upsert_latest(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Insert rows into ``latest_metrics``, each name of a run once, or replace older ones.
        Raises NameCollisionError."""

    def write_rows(
        self, connection: Connection, rows: Sequence[Row], newest: Sequence[Row]
    ) -> None:
        """`insert_rows`, if there are any, and `upsert_latest` with ``newest``."""
        if rows:
            self.insert_rows(connection, rows)
        self.upsert_latest(connection, newest)

    def check_names(  # noqa: B027
        self, connection: Connection, table: str, run_id: str, names: Iterable[str]
    ) -> None:
        """Raise NameCollisionError unless each of the names that were just written has a row of
        its own: primary keys ensure it where the collation is case-sensitive."""


def _many(row: str, parameters: int, rows: int) -> str:
    """Rows of a VALUES clause. In ``row``, {0}, {1}, … are each row's own parameters; ?1 and ?2
    come first and are common to all rows."""
    first = 1 + row.count("?")
    return ", ".join(
        row.format(*(f"?{first + parameters * number + at}" for at in range(parameters)))
        for number in range(rows)
    )


def _insert(rows: str) -> str:
    return f"INSERT {_INTO.format(table='metrics')} VALUES {rows} ON CONFLICT DO NOTHING"


def _upsert(rows: str) -> str:
    return f"INSERT {_INTO.format(table='latest_metrics')} VALUES {rows} {_NEWER}"


def _marks(rows: int) -> str:
    return ", ".join(["(?,?,?,?,?,?)"] * rows)


class Sqlite(Dialect):
    """Inserts some hundred rows per statement: a statement per row costs more time in Python
    than in SQLite, and at each one the driver releases the interpreter to threads that keep it
    for milliseconds. Every SQLite takes 999 parameters per statement."""

    ONE_METRIC = 300
    SIZES = (190, 24, 3, 1)
    OF_ONE_METRIC = _insert(_many("(?1,{0},{1},{2},0,?2)", 3, ONE_METRIC))
    OF_ANY = tuple(_insert(_many("({0},{1},{2},{3},{4},?1)", 5, size)) for size in SIZES)
    ROWS = (160, 40, 10, 1)
    OF_RUNS = tuple(_insert(_marks(size)) for size in ROWS)
    LATEST = tuple(_upsert(_marks(size)) for size in ROWS)

    def query(self, connection: Connection, sql: str, values: Any) -> list[tuple[Any, ...]]:
        return sqlite_driver.execute(connection, sql, values).fetchall()

    def insert(self, connection: Connection, run_id: str, part: Sequence[Points]) -> None:
        rest: tuple[list[Any], ...] = ([], [], [], [], [])
        for points in part:
            start = self._insert_one_metric(connection, run_id, points)
            for column, more in zip(rest, points.cut(start, None).columns(), strict=True):
                column.extend(more)
        start, end = 0, len(rest[0])
        for size, insert in zip(self.SIZES, self.OF_ANY, strict=True):
            parameters: list[Any] = [run_id, *[None] * (5 * size)]
            while end - start >= size:
                for at, column in enumerate(rest, start=1):
                    parameters[at::5] = column[start : start + size]
                sqlite_driver.execute(connection, insert, tuple(parameters))
                start += size

    def _insert_one_metric(self, connection: Connection, run_id: str, points: Points) -> int:
        """Insert the points that fill statements of one metric; returns how many."""
        size = self.ONE_METRIC
        count = len(points.values) // size * size
        if not count or not points.finite():
            return 0
        parameters: list[Any] = [points.name, run_id, *[None] * (3 * size)]
        for start in range(0, count, size):
            stop = start + size
            parameters[2::3] = points.values[start:stop]
            parameters[3::3] = points.timestamps_ms[start:stop]
            parameters[4::3] = points.steps[start:stop]
            sqlite_driver.execute(connection, self.OF_ONE_METRIC, tuple(parameters))
        return count

    def insert_rows(self, connection: Connection, rows: Sequence[Row]) -> None:
        self._execute(connection, self.OF_RUNS, rows)

    def upsert_latest(self, connection: Connection, rows: Sequence[Row]) -> None:
        self._execute(connection, self.LATEST, rows)

    def _execute(
        self, connection: Connection, statements: Sequence[str], rows: Sequence[Row]
    ) -> None:
        """Execute the statements of as many rows as `ROWS` says, the largest ones first."""
        start, end = 0, len(rows)
        for size, statement in zip(self.ROWS, statements, strict=True):
            while end - start >= size:
                values = tuple(chain.from_iterable(rows[start : start + size]))
                sqlite_driver.execute(connection, statement, values)
                start += size


class PostgreSql(Dialect):
    """Copies many rows at once. COPY cannot skip rows that exist; then it is INSERT that does."""

    STAGE = "mlflow_wandb_points"
    COPIED = 200
    """Fewer rows are faster to insert in one statement."""
    ROWS = (
        "SELECT * FROM unnest(%s::text[], %s::float8[], %s::bigint[], %s::bigint[], "
        "%s::boolean[], %s::text[])"
    )
    INSERT = f"INSERT {_INTO.format(table='metrics')} {ROWS} ON CONFLICT DO NOTHING"
    UPSERT = f"INSERT {_INTO.format(table='latest_metrics')} {ROWS} {_NEWER}"
    BOTH = f"WITH newest AS ({UPSERT}) {INSERT}"

    def insert(self, connection: Connection, run_id: str, part: Sequence[Points]) -> None:
        if not self._copied(connection, copy_points, run_id, part):
            self._insert_new(connection, run_id, part)

    def _copied(self, connection: Connection, copy: Callable[..., None], *content: Any) -> bool:
        """Whether all rows were copied; else none was: one exists, or there is an error, which
        whoever inserts them otherwise gets as one of SQLAlchemy's."""
        try:
            with connection.begin_nested():
                copy(connection, "metrics", *content)
        except _driver(connection).Error:
            return False
        return True

    def _insert_new(self, connection: Connection, run_id: str, part: Sequence[Points]) -> None:
        """Insert the points that do not exist."""
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {self.STAGE} (key varchar, value float8, "
            "timestamp bigint, step bigint, is_nan boolean, run_uuid varchar) "
            "ON COMMIT DELETE ROWS"
        )
        copy_points(connection, self.STAGE, run_id, part)
        named = ", ".join(COLUMNS)
        connection.exec_driver_sql(
            f"INSERT INTO metrics ({named}) SELECT {named} FROM {self.STAGE} ON CONFLICT DO NOTHING"
        )
        # The same transaction may insert more points.
        connection.exec_driver_sql(f"TRUNCATE {self.STAGE}")

    def insert_rows(self, connection: Connection, rows: Sequence[Row]) -> None:
        if len(rows) < self.COPIED or not self._copied(connection, copy_rows, rows):
            connection.exec_driver_sql(self.INSERT, self._arrays(rows))

    def upsert_latest(self, connection: Connection, rows: Sequence[Row]) -> None:
        connection.exec_driver_sql(self.UPSERT, self._arrays(sorted(rows, key=_run_and_name)))

    def write_rows(
        self, connection: Connection, rows: Sequence[Row], newest: Sequence[Row]
    ) -> None:
        if 0 < len(rows) < self.COPIED:
            # One statement is one answer to wait for.
            latest = self._arrays(sorted(newest, key=_run_and_name))
            connection.exec_driver_sql(self.BOTH, (*latest, *self._arrays(rows)))
        else:
            super().write_rows(connection, rows, newest)

    def _arrays(self, rows: Sequence[Row]) -> tuple[Any, ...]:
        """The columns as arrays: one statement for any number of rows, six parameters to escape."""
        names, values, times, steps, nan, runs = zip(*rows, strict=True)
        numbers = [f"{{{','.join(map(repr, column))}}}" for column in (times, steps)]
        flags = f"{{{','.join('ft'[flag] for flag in nan)}}}"
        # Adding 0.0 removes the sign of a zero, as log_batch does through psycopg2.
        floats = f"{{{','.join(repr(value + 0.0) for value in values)}}}"
        return (list(names), floats, *numbers, flags, list(runs))


def _driver(connection: Connection) -> Any:
    """The driver's module."""
    return connection.dialect.dbapi


def _run_and_name(row: Row) -> tuple[str, str]:
    """The order in which every process locks rows: two transactions never wait for each other's,
    nor for one of MLflow's, which sorts the names of its one run."""
    return row[5], row[0]


class MySql(Dialect):
    """Inserts literals in long statements into MySQL and MariaDB: with parameters, their drivers
    escape each number in Python.

    INSERT IGNORE would turn every error into a warning; an update that changes nothing ignores
    repeats only. Both know ``VALUES()``, which MySQL 8.0.20 deprecates; MariaDB lacks its
    successor. In their usual collations ``Loss`` equals ``loss``: like log_batch, this refuses the
    second one.
    """

    QUOTE = "`"
    REPLACE_VALUE = "ON DUPLICATE KEY UPDATE value = VALUES(value)"
    STATEMENT_BYTES = 200_000
    IGNORE = "ON DUPLICATE KEY UPDATE step = step"
    # Assignments see earlier ones: the columns that are compared come last, the first of them at
    # the end.
    NEWER = "ON DUPLICATE KEY UPDATE " + ", ".join(
        f"{column} = IF((VALUES(step), VALUES(timestamp), VALUES(value)) > "
        f"(step, timestamp, value), VALUES({column}), {column})"
        for column in ("is_nan", "value", "timestamp", "step")
    )

    def insert(self, connection: Connection, run_id: str, part: Sequence[Points]) -> None:
        self._insert(connection, "metrics", _literals(run_id, part), self.IGNORE)

    def insert_rows(self, connection: Connection, rows: Sequence[Row]) -> None:
        self._insert(connection, "metrics", map(_literal, rows), self.IGNORE)

    def upsert_latest(self, connection: Connection, rows: Sequence[Row]) -> None:
        ordered = sorted(rows, key=_run_and_name)
        self._insert(connection, "latest_metrics", map(_literal, ordered), self.NEWER)
        for run_id, its_rows in groupby(ordered, key=itemgetter(5)):
            names = [row[0] for row in its_rows]
            self.check_names(connection, "latest_metrics", run_id, names)

    def check_names(
        self, connection: Connection, table: str, run_id: str, names: Iterable[str]
    ) -> None:
        missing = set(names)
        for some in _split(self._statement_size(connection), map(_text, sorted(missing))):
            # A locking read finds rows that were committed after this transaction's snapshot.
            found = connection.exec_driver_sql(
                f"SELECT `key` FROM {table} WHERE run_uuid = {_text(run_id)} "
                f"AND `key` IN ({', '.join(some)}) FOR UPDATE"
            )
            missing.difference_update(name for (name,) in found.fetchall())
        if missing:
            raise NameCollisionError(missing)

    def _insert(
        self, connection: Connection, table: str, rows: Iterable[str], repeats: str
    ) -> None:
        into = f"INSERT {_INTO.format(table=table).replace('key', '`key`')} VALUES "
        for some in _split(self._statement_size(connection), rows):
            connection.exec_driver_sql(f"{into}{', '.join(some)} {repeats}")

    def _statement_size(self, connection: Connection) -> int:
        """Characters of rows per statement: the server closes connections that send more than its
        max_allowed_packet."""
        if _STATEMENT_SIZE not in connection.info:
            packet = connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar()
            connection.info[_STATEMENT_SIZE] = min(self.STATEMENT_BYTES, int(packet or 0) // 2)
        return int(connection.info[_STATEMENT_SIZE])


_STATEMENT_SIZE = "mlflow_wandb_statement_size"
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_./: -]*")


def _text(text: str) -> str:
    """A text as a literal in any mode of MySQL and any character set of the connection."""
    if _PLAIN_TEXT.fullmatch(text):
        return f"'{text}'"
    return f"_utf8mb4 x'{text.encode().hex()}'"


def _literals(run_id: str, part: Sequence[Points]) -> Iterator[str]:
    run = _text(run_id)
    for points in part:
        name = _text(points.name)
        _, *columns = points.columns()
        for value, at, step, nan in zip(*columns, strict=True):
            yield _literal_row(name, value, at, step, nan, run)


def _literal(row: Row) -> str:
    name, value, at, step, nan, run_id = row
    return _literal_row(_text(name), value, at, step, nan, _text(run_id))


def _literal_row(name: str, value: float, at: int, step: int, nan: bool, run: str) -> str:
    return f"({name},{float(value)!r},{int(at)},{int(step)},{int(nan)},{run})"


def _split(size: int, rows: Iterable[str]) -> Iterator[list[str]]:
    """Split rows or names into lists of about ``size`` characters, of one row at least."""
    some: list[str] = []
    length = 0
    for row in rows:
        if some and length + len(row) > size:
            yield some
            some, length = [], 0
        some.append(row)
        length += len(row) + 2
    if some:
        yield some


DIALECTS: Mapping[str, Callable[[], Dialect]] = {
    "sqlite": Sqlite,
    "postgresql": PostgreSql,
    "mysql": MySql,
}
