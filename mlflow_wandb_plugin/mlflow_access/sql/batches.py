"""What several calls of log_batch write, as the rows of one transaction.

The rows are those that ``SqlAlchemyStore`` writes. A call that is a special case (a run that is not
there or deleted, a param that changes) is left out, for MLflow to do it or to refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from mlflow_wandb_plugin.mlflow_access.point_blocks import Points, Row
from mlflow_wandb_plugin.mlflow_access.sql.dialects import DIALECTS

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

RUNS_AT_ONCE = 500


class Batch(NamedTuple):
    """What one call logs to one run. All of it is valid and stored as it is here.

    Attributes:
        points: rows of ``metrics``.
        params, tags: values by key.
        workspace: the run must be in it; None if it may be in any.
        blocks: more points, as columns; each metric once.
    """

    run_id: str
    points: Sequence[Row] = ()
    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    workspace: str | None = None
    blocks: Sequence[Points] = ()

    def point_count(self) -> int:
        return len(self.points) + sum(len(block.values) for block in self.blocks)


class BatchWriter:
    """Writes batches in one database, within transactions that the caller begins and ends."""

    def __init__(self, engine: Engine) -> None:
        self._dialect = DIALECTS[engine.dialect.name]()

    def write(self, connection: Connection, batches: Sequence[Batch]) -> list[bool]:
        """Write batches as if one call came after the other; returns which ones were written.

        Raises:
            NameCollisionError: names that differ are equal in the database's collation.
            sqlalchemy.exc.SQLAlchemyError: the database refused something.
        """
        active = self._active(connection, batches)
        new_params: dict[tuple[str, str], str] = {}
        written = [
            batch.run_id in active
            and batch.workspace in (None, active[batch.run_id])
            and self._add_params(connection, batch, new_params)
            for batch in batches
        ]
        kept = [batch for batch, good in zip(batches, written, strict=True) if good]
        points = [row for batch in kept for row in batch.points]
        if new_params:
            self._insert_params(connection, new_params)
        for batch in kept:
            if batch.blocks:
                self._dialect.insert(connection, batch.run_id, batch.blocks)
        of_blocks = (block.latest(batch.run_id) for batch in kept for block in batch.blocks)
        newest = latest(chain(points, of_blocks))
        if newest:
            self._dialect.write_rows(connection, points, newest)
        self._put_tags(connection, kept)
        return written

    def _active(self, connection: Connection, batches: Sequence[Batch]) -> dict[str, str | None]:
        """The runs that exist and are not deleted, and their workspaces; None where no batch is
        bound to one."""
        bound = any(batch.workspace is not None for batch in batches)
        column = "experiments.workspace" if bound else "NULL"
        joined = "JOIN experiments ON experiments.experiment_id = runs.experiment_id"
        wanted = sorted({batch.run_id for batch in batches})
        found: dict[str, str | None] = {}
        for start in range(0, len(wanted), RUNS_AT_ONCE):
            some = wanted[start : start + RUNS_AT_ONCE]
            rows = self._dialect.query(
                connection,
                f"SELECT runs.run_uuid, {column} FROM runs {joined if bound else ''} "
                "WHERE runs.lifecycle_stage = 'active' "
                f"AND runs.run_uuid IN ({', '.join('?' * len(some))})",
                tuple(some),
            )
            found.update(rows)
        return found

    def _add_params(
        self, connection: Connection, batch: Batch, new: dict[tuple[str, str], str]
    ) -> bool:
        """Add the params of ``batch`` that its run lacks to ``new``; whether none of them changes
        one that the run has."""
        if not batch.params:
            return True
        marks = ", ".join("?" * len(batch.params))
        rows = self._dialect.query(
            connection,
            f'SELECT "key", value FROM params WHERE run_uuid = ? AND "key" IN ({marks})',
            (batch.run_id, *batch.params),
        )
        known = dict(rows)
        for key in batch.params:
            if (batch.run_id, key) in new:
                known[key] = new[batch.run_id, key]
        if any(known.get(key, value) != value for key, value in batch.params.items()):
            return False
        for key, value in batch.params.items():
            if key not in known:
                new[batch.run_id, key] = value
        return True

    def _insert_params(self, connection: Connection, params: Mapping[tuple[str, str], str]) -> None:
        # A param that another process adds meanwhile violates the primary key.
        self._dialect.execute(
            connection,
            'INSERT INTO params ("key", value, run_uuid) VALUES (?, ?, ?)',
            [(key, value, run_id) for (run_id, key), value in params.items()],
        )

    def _put_tags(self, connection: Connection, batches: Sequence[Batch]) -> None:
        tags: dict[str, dict[str, str]] = {}
        for batch in batches:
            if batch.tags:
                tags.setdefault(batch.run_id, {}).update(batch.tags)
        for run_id in sorted(tags):
            its_tags = tags[run_id]
            self._dialect.execute(
                connection,
                'INSERT INTO tags ("key", value, run_uuid) VALUES (?, ?, ?) '
                + self._dialect.REPLACE_VALUE,
                [(key, its_tags[key], run_id) for key in sorted(its_tags)],
            )
            self._dialect.check_names(connection, "tags", run_id, its_tags)


def latest(points: Iterable[Row]) -> list[Row]:
    """The row of each metric of each run that is greatest by step, time and value; of equal ones
    the first."""
    found: dict[tuple[str, str], Row] = {}
    for row in points:
        key, value, at, step, _, run_id = row
        other = found.get((run_id, key))
        if other is None or (step, at, value) > (other[3], other[2], other[1]):
            found[run_id, key] = row
    return list(found.values())
