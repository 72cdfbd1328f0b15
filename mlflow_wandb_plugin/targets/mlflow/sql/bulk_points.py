"""Writes points into MLflow's database: the rows that log_batch would write, without its ORM.

Besides the rules in `point_blocks`, an exact repeat is ignored, and a deleted run takes no points.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.targets.mlflow.client import RefusedNamesError, deleted
from mlflow_wandb_plugin.targets.mlflow.point_blocks import COLUMNS, Points, joined
from mlflow_wandb_plugin.targets.mlflow.sql.dialects import DIALECTS, NameCollisionError, has_tables
from mlflow_wandb_plugin.targets.mlflow.sql.transactions import (
    LOCK_S,
    SharedTransactions,
    is_active,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Connection, Engine

TESTED_SCHEMAS = frozenset({"bda7b8c39065", "dc11669786a5"})
"""Alembic revisions (MLflow 3.1 and 3.17) with which the rows were compared to log_batch's."""
PRIMARY_KEY = {"key", "timestamp", "step", "run_uuid", "value", "is_nan"}
FEWEST_ROWS, MOST_ROWS = 2_000, 200_000


class SqlBulk:
    """A `BulkWriter` into the database of an MLflow store; other work on runs may share its
    transactions. Thread-safe."""

    backs_off = False

    def __init__(self, transactions: SharedTransactions) -> None:
        self.transactions = transactions
        self._dialect = DIALECTS[transactions.engine.dialect.name]()
        self._rows_at_once = 20_000

    def write(self, run_id: str, blocks: Sequence[Points]) -> None:
        """Write points of one run, in transactions of about `LOCK_S` at most. May be repeated.

        Raises:
            TargetError: the run was deleted.
            RefusedNamesError: names of some metrics collide with others of the run; all points but
                theirs were written. Not in a step of `SharedTransactions.batched`.
            sqlalchemy.exc.SQLAlchemyError: the database refused the points.
        """
        collided: set[str] = set()
        waiting = deque(blocks)
        while waiting:
            part = self._part(waiting)
            try:
                self._write_part(run_id, part)
            except NameCollisionError:
                # Of two names that collide, the first one is kept, as with log_batch.
                for points in part:
                    try:
                        self._write_part(run_id, [points])
                    except NameCollisionError as error:
                        collided |= error.names
        if collided:
            found = NameCollisionError(collided)
            raise RefusedNamesError(str(found), found.names)

    def fits(self, blocks: Sequence[Points]) -> bool:
        return sum(len(points.values) for points in blocks) <= self._rows_at_once

    def _write_part(self, run_id: str, part: Sequence[Points]) -> None:
        self.transactions.run(partial(self._put, run_id=run_id, part=part))

    def _put(self, connection: Connection, run_id: str, part: Sequence[Points]) -> None:
        began = time.monotonic()
        if not is_active(connection, run_id):
            raise deleted(run_id)
        self._dialect.insert(connection, run_id, part)
        self._dialect.upsert_latest(connection, [points.latest(run_id) for points in part])
        rows, seconds = sum(len(points.values) for points in part), time.monotonic() - began
        if rows >= FEWEST_ROWS:
            wanted = int(rows * LOCK_S / max(seconds, 1e-3))
            self._rows_at_once = min(MOST_ROWS, max(FEWEST_ROWS, wanted))

    def _part(self, waiting: deque[Points]) -> list[Points]:
        """Take the points of one transaction; each metric once, for it has one latest point."""
        part: list[Points] = []
        left = self._rows_at_once
        while waiting and left > 0:
            points = waiting.popleft()
            if len(points.values) > left:
                waiting.appendleft(points.cut(left, None))
                points = points.cut(0, left)
            part.append(points)
            left -= len(points.values)
        return joined(part)


def open_bulk(client: MlflowClient) -> SqlBulk:
    """Return the bulk writer into the database of ``client``; UsageError says why it is not
    possible."""
    from sqlalchemy import Engine, inspect

    engine = getattr(client._tracking_client.store, "engine", None)
    if not isinstance(engine, Engine):
        raise UsageError("the bulk path needs a database as tracking URI: use --write-path api")
    if engine.dialect.name not in DIALECTS:
        raise UsageError(f"no bulk path into {engine.dialect.name}: use --write-path api")
    revision = _revision(engine)
    if revision not in TESTED_SCHEMAS:
        raise UsageError(
            f"the database has schema {revision}, which the bulk path was not tested with: "
            "use --write-path api, or update mlflow-wandb-plugin"
        )
    columns = set(COLUMNS)
    known = has_tables(engine, {"metrics": columns, "latest_metrics": columns})
    key = inspect(engine).get_pk_constraint("metrics")["constrained_columns"]
    if not known or set(key) != PRIMARY_KEY:
        raise UsageError("the database's metric tables are not MLflow's: use --write-path api")
    return SqlBulk(SharedTransactions(engine))


def _revision(engine: Engine) -> str:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with engine.connect() as connection:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())
    except SQLAlchemyError:
        return "unknown"
