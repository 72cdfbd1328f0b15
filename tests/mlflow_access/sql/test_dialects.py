"""SQL for many rows at once, in SQLite."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine

from mlflow_wandb_plugin.mlflow_access.point_blocks import Points, Row
from mlflow_wandb_plugin.mlflow_access.sql.dialects import Dialect, Sqlite
from tests.mlflow_access.sql.tables import points_in, rows


@pytest.mark.parametrize("count", [1, 2, 3, 4, 27, 215, 299, 300, 301, 523, 900])
def test_as_many_points_as_there_are(engine: Engine, count: int) -> None:
    """However they are divided into statements, each is there once, also when written twice."""
    numbers = range(count)
    points = Points("m", [at / 4 for at in numbers], [at + 7 for at in numbers], list(numbers))
    with engine.begin() as connection:
        Sqlite().insert(connection, "r", [points])
        Sqlite().insert(connection, "r", [points])
    assert points_in(engine) == [("r", "m", at, at + 7, at / 4, 0) for at in numbers]


def test_each_point_is_sent_to_the_database_once(engine: Engine) -> None:
    """Those that filled a statement of one metric are not sent again with what is left."""
    sent: list[int] = []

    numbers = range(601)
    with engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_trace_callback(lambda sql: sent.append(sql.count("('m',")))
        Sqlite().insert(connection, "r", [Points("m", [0.5] * 601, numbers, numbers)])
        driver.set_trace_callback(None)
    assert sent == [0, 300, 300, 1], "BEGIN, and three statements"
    assert len(points_in(engine)) == 601


def test_points_of_several_metrics(engine: Engine) -> None:
    """What is left of each fills statements together; NaN keeps its mark."""
    long = Points("long", [0.5] * 301, [1] * 301, list(range(301)))
    odd = Points("odd", [math.nan] * 300, [2] * 300, list(range(300)))
    short = Points("short", [7.0], [3], [4])
    with engine.begin() as connection:
        Sqlite().insert(connection, "r", [long, odd, short])
    assert points_in(engine) == [
        *(("r", "long", at, 1, 0.5, 0) for at in range(301)),
        *(("r", "odd", at, 2, 0.0, 1) for at in range(300)),
        ("r", "short", 4, 3, 7.0, 0),
    ]


@pytest.mark.parametrize("count", [1, 9, 10, 11, 40, 41, 160, 161, 211, 400])
def test_as_many_rows_of_runs_as_there_are(engine: Engine, count: int) -> None:
    """Rows of any runs are inserted in few statements, each once."""
    many: list[Row] = [("m", at / 4, 7, at, False, "rs"[at % 2]) for at in range(count)]
    with engine.begin() as connection:
        Sqlite().insert_rows(connection, many)
        Sqlite().insert_rows(connection, many)
    assert points_in(engine) == sorted(("rs"[at % 2], "m", at, 7, at / 4, 0) for at in range(count))


def test_the_latest_row_is_replaced_by_a_later_one_only(engine: Engine) -> None:
    """Step, time and value count, in this order."""
    first: list[Row] = [("m", 2.0, 5, 3, False, "r")]
    for row, kept in (
        (("m", 9.0, 9, 2, False, "r"), (3, 5, 2.0)),
        (("m", 9.0, 4, 3, False, "r"), (3, 5, 2.0)),
        (("m", 1.0, 5, 3, False, "r"), (3, 5, 2.0)),
        (("m", 2.5, 5, 3, False, "r"), (3, 5, 2.5)),
        (("m", 1.0, 6, 3, False, "r"), (3, 6, 1.0)),
        (("m", 0.0, 1, 4, True, "r"), (4, 1, 0.0)),
    ):
        with engine.begin() as connection:
            Sqlite().upsert_latest(connection, first)
            Sqlite().upsert_latest(connection, [row])
        assert rows(engine, "latest_metrics", "step, timestamp, value") == [kept]
    assert rows(engine, "latest_metrics", "is_nan") == [(1,)]


def test_sql_in_the_drivers_own_syntax(engine: Engine) -> None:
    """Question marks and double quotes are what SQLite takes itself."""
    with engine.begin() as connection:
        found = Sqlite().execute(connection, 'SELECT ? AS "key"', ("value",))
        assert [tuple(row) for row in found] == [("value",)]


def test_rows_of_a_query_are_tuples(engine: Engine) -> None:
    """By SQLite's driver, and by SQLAlchemy, as the other databases are asked."""
    query = 'SELECT ? AS "key", 2'
    with engine.begin() as connection:
        for rows_of in (Sqlite.query, Dialect.query):
            found = rows_of(Sqlite(), connection, query, ("value",))
            assert found == [("value", 2)]
            assert type(found[0]) is tuple


def test_a_refused_statement_raises_sqlalchemys_error(engine: Engine) -> None:
    """Callers know no driver's errors; the rows before it are kept."""
    with engine.begin() as connection:
        Sqlite().insert_rows(connection, [("m", 1.0, 2, 3, False, "r")])
        with pytest.raises(sqlalchemy.exc.OperationalError):
            Sqlite().query(connection, "SELECT * FROM absent", ())
        with pytest.raises(sqlalchemy.exc.SQLAlchemyError):
            Sqlite().insert_rows(connection, [("m", object(), 2, 4, False, "r")])  # type: ignore[list-item]
    assert points_in(engine) == [("r", "m", 3, 2, 1.0, 0)]
