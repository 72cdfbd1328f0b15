"""How each database takes many rows of ``metrics`` and ``latest_metrics`` at once."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mlflow_wandb_plugin.endpoints.mlflow_columns import COLUMNS, Points, Row

if TYPE_CHECKING:
    from sqlalchemy import Connection

_INTO = f"INTO {{table}} ({', '.join(COLUMNS)})"
_NEWER = (
    "ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value, step = excluded.step, "
    "timestamp = excluded.timestamp, is_nan = excluded.is_nan "
    "WHERE (excluded.step, excluded.timestamp, excluded.value) > "
    "(latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)"
)


class Dialect(Protocol):
    """Writes within a transaction that somebody else begins and ends."""

    def insert(self, connection: Connection, run_id: str, part: Sequence[Points]) -> None:
        """Put points into ``metrics``; those that are there already are left alone."""

    def upsert_latest(self, connection: Connection, rows: list[Row]) -> None:
        """Put rows, each of another name, into ``latest_metrics`` where they are newer."""


def _many(row: str, parameters: int, rows: int) -> str:
    """Rows of a VALUES clause; ``row`` names the parameters that are each row's own {0}, {1}…, and
    what all rows share ?1, ?2, which come first."""
    first = 1 + row.count("?")
    return ", ".join(
        row.format(*(f"?{first + parameters * number + at}" for at in range(parameters)))
        for number in range(rows)
    )


def _insert(rows: str) -> str:
    return f"INSERT {_INTO.format(table='metrics')} VALUES {rows} ON CONFLICT DO NOTHING"


class Sqlite:
    """Rows go in by the hundred: one statement a row costs more in Python than in SQLite, and the
    driver gives up the interpreter at each, to threads that keep it for milliseconds.

    Every SQLite takes 999 parameters a statement.
    """

    ONE_METRIC = 300
    SIZES = (190, 24, 3, 1)
    OF_ONE_METRIC = _insert(_many("(?1,{0},{1},{2},0,?2)", 3, ONE_METRIC))
    OF_ANY = tuple(_insert(_many("({0},{1},{2},{3},{4},?1)", 5, size)) for size in SIZES)
    UPSERT = f"INSERT {_INTO.format(table='latest_metrics')} VALUES (?,?,?,?,?,?) {_NEWER}"

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
                connection.exec_driver_sql(insert, tuple(parameters))
                start += size

    def _insert_one_metric(self, connection: Connection, run_id: str, points: Points) -> int:
        """Insert as many points as fill whole statements of one name; returns how many."""
        size = self.ONE_METRIC
        whole = len(points.values) // size * size
        if not whole or not points.finite():
            return 0
        parameters: list[Any] = [points.name, run_id, *[None] * (3 * size)]
        for start in range(0, whole, size):
            stop = start + size
            parameters[2::3] = points.values[start:stop]
            parameters[3::3] = points.timestamps_ms[start:stop]
            parameters[4::3] = points.steps[start:stop]
            connection.exec_driver_sql(self.OF_ONE_METRIC, tuple(parameters))
        return whole

    def upsert_latest(self, connection: Connection, rows: list[Row]) -> None:
        connection.exec_driver_sql(self.UPSERT, rows)


class PostgreSql:
    """COPY knows no conflicts: rows go into a temporary table first."""

    STAGE = "mlflow_wandb_points"
    UPSERT = f"INSERT {_INTO.format(table='latest_metrics')} VALUES (%s,%s,%s,%s,%s,%s) {_NEWER}"

    def insert(self, connection: Connection, run_id: str, part: Sequence[Points]) -> None:
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {self.STAGE} (key varchar, value float8, "
            "timestamp bigint, step bigint, is_nan boolean, run_uuid varchar) "
            "ON COMMIT DELETE ROWS"
        )
        lines = io.StringIO()
        for points in part:
            name = _escaped(points.name)
            _, *columns = points.columns()
            for value, at, step, is_nan in zip(*columns, strict=True):
                # Added to 0.0, for log_batch's way through psycopg2 loses the sign of a zero.
                lines.write(f"{name}\t{value + 0.0!r}\t{at}\t{step}\t{'ft'[is_nan]}\t{run_id}\n")
        self._copy(connection, lines)
        named = ", ".join(COLUMNS)
        connection.exec_driver_sql(
            f"INSERT INTO metrics ({named}) SELECT {named} FROM {self.STAGE} ON CONFLICT DO NOTHING"
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


DIALECTS: Mapping[str, type[Sqlite] | type[PostgreSql]] = {
    "sqlite": Sqlite,
    "postgresql": PostgreSql,
}
