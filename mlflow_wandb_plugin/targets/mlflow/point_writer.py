"""Writes points of one run: in bulk where that is possible, else in batches of MLflow's API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.mapping.names import Limits
from mlflow_wandb_plugin.mlflow_access.point_blocks import BulkWriter, Points, metrics_of
from mlflow_wandb_plugin.targets.mlflow.batches import Batches
from mlflow_wandb_plugin.targets.mlflow.client import ITEM_FAULTS, RefusedError, RefusedNamesError

if TYPE_CHECKING:
    from mlflow.entities import Metric

BULK_POINTS = 100_000
"""Points that wait in memory where they are written in bulk."""
OUT_OF_RANGE = "MLflow stores times from 0 on and steps, both in 64 bits: log another value"


class PointWriter:
    """Keeps points in memory until they are many, or `flush` is called. ``bulk`` writes many
    points at once; it is None where only MLflow's API can."""

    def __init__(self, batches: Batches, bulk: BulkWriter | None) -> None:
        self._client, self._run_id = batches.client, batches.run_id
        self._batches = batches
        self._batch_size = Limits.installed().batch_metrics
        self._bulk = bulk
        self._waiting: list[Points] = []
        self._count = 0
        self._most = 10 * self._batch_size if bulk is None else BULK_POINTS
        self._metrics: list[Metric] = []

    @property
    def full(self) -> bool:
        """Whether `flush` should be called before more points are appended."""
        return self._count >= self._most

    def append(self, points: Points) -> None:
        """Keep points of one metric; those that MLflow cannot store are counted as losses."""
        if len(points.values) and not points.storable():
            points, refused = points.split()
            self._batches.leave_out(metrics_of([refused]), OUT_OF_RANGE)
        if len(points.values):
            self._waiting.append(points)
            self._count += len(points.values)

    def flush(self, then: Sequence[Callable[[], object]] = ()) -> None:
        """Write all points, then take the steps ``then`` as `Client.batched` does, in one
        transaction with the points where that is possible. Points that could not be written are
        kept."""
        if self._bulk is not None and self._waiting:
            together = not self._metrics and self._bulk.fits(self._waiting)
            if together and self._write_with(self._bulk, then):
                return
            self._write_all(self._bulk)
        self._metrics.extend(metrics_of(self._waiting))
        self._waiting, self._count = [], 0
        while self._metrics:
            self._batches.log("metrics", self._metrics[: self._batch_size])
            del self._metrics[: self._batch_size]
        if then:
            self._client.batched(then)

    def _write_with(self, bulk: BulkWriter, then: Sequence[Callable[[], object]]) -> bool:
        """Write all points and take the steps in one transaction; False if MLflow refuses some
        of it and nothing was done."""
        try:
            self._client.batched([partial(self._write, bulk), *then])
        except RefusedError as error:
            if error.code not in ITEM_FAULTS:
                raise
            return False
        self._waiting, self._count = [], 0
        return True

    def _write(self, bulk: BulkWriter) -> None:
        if bulk.backs_off:
            bulk.write(self._run_id, self._waiting)
        else:
            self._client.call(bulk.write, self._run_id, self._waiting)

    def _write_all(self, bulk: BulkWriter) -> None:
        """Write the points in bulk. If MLflow refuses some for a reason that is not known, all are
        kept: its API says which of them are at fault."""
        try:
            self._write(bulk)
        except RefusedNamesError as error:
            refused = [points for points in self._waiting if points.name in error.names]
            self._batches.leave_out(metrics_of(refused), str(error))
        except RefusedError as error:
            if error.code not in ITEM_FAULTS:
                raise
            return
        self._waiting, self._count = [], 0
