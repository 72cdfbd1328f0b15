"""Writes points into MLflow's database: the rows that log_batch would write, without its ORM.

Besides the rules in `point_blocks`, an exact repeat is ignored, and a deleted run takes no points.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points, joined
from mlflow_wandb_plugin.mlflow_access.sql.dialects import DIALECTS, NameCollisionError
from mlflow_wandb_plugin.mlflow_access.sql.transactions import (
    LOCK_S,
    SharedTransactions,
    is_active,
)
from mlflow_wandb_plugin.mlflow_access.table_shapes import METRIC_TABLES, unknown_shape
from mlflow_wandb_plugin.targets.mlflow.client import RefusedNamesError, deleted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Connection

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


def bulk_obstacle(client: MlflowClient) -> str:
    """Say why points cannot be written in bulk into the database of ``client``; empty if they
    can."""
    needs_database = "the bulk path needs a database as tracking URI"
    engine = getattr(client._tracking_client.store, "engine", None)
    if engine is None:
        return needs_database
    from sqlalchemy import Engine

    if not isinstance(engine, Engine):
        return needs_database
    if engine.dialect.name not in DIALECTS:
        return f"there is no bulk path into {engine.dialect.name}"
    return unknown_shape(engine, METRIC_TABLES)


def open_bulk(client: MlflowClient) -> SqlBulk:
    """Return the bulk writer into the database of ``client``; UsageError says why it is not
    possible."""
    obstacle = bulk_obstacle(client)
    if obstacle:
        raise UsageError(f"{obstacle}: use --write-path api")
    store: Any = client._tracking_client.store
    return SqlBulk(SharedTransactions(store.engine))
