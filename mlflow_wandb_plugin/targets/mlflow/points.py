"""How points, params and tags reach MLflow: batches of its API, and points in bulk where it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.targets.mlflow.client import (
    ITEM_FAULTS,
    Client,
    RefusedError,
    RefusedNamesError,
    deleted,
)
from mlflow_wandb_plugin.targets.mlflow.point_blocks import BulkWriter, Points
from mlflow_wandb_plugin.targets.mlflow.run_files import RunFiles

if TYPE_CHECKING:
    from mlflow.entities import Metric

BULK_POINTS = 100_000
"""Points that wait in memory for the bulk path."""


class Batches:
    """Logs items of one run in batches; an item that MLflow refuses is left out and counted."""

    def __init__(self, client: Client, run_id: str, files: RunFiles, losses: Counter[str]) -> None:
        self._client = client
        self._run_id = run_id
        self._files = files
        self._losses = losses

    def log(self, kind: str, items: list[Any]) -> None:
        """Log one batch of ``metrics``, ``params`` or ``tags``."""
        self._log(lambda some: self._client.log_batch(self._run_id, **{kind: some}), items)

    def _log(self, log: Callable[[list[Any]], None], batch: list[Any], whole: bool = True) -> None:
        """If MLflow refuses a batch, halve until the bad item alone is left out."""
        try:
            log(batch)
        except RefusedError as error:
            if error.code not in ITEM_FAULTS:
                raise
            if whole:
                self._check_active()
            if len(batch) == 1:
                self.leave_out(batch, str(error))
                return
            middle = len(batch) // 2
            self._log(log, batch[:middle], whole=False)
            self._log(log, batch[middle:], whole=False)

    def leave_out(self, items: Sequence[Any], reason: str) -> None:
        """Count items that MLflow refuses, and keep what they were."""
        for item in items:
            if self._files.keep_loss(item, reason):
                self._losses[f"{type(item).__name__.lower()}_refused"] += 1

    def _check_active(self) -> None:
        """MLflow refuses every item of a deleted run with the code of a bad item.

        Raises:
            TargetError: the run was deleted.
        """
        run = self._client.call(self._client.client.get_run, self._run_id)
        if run.info.lifecycle_stage != "active":
            raise deleted(self._run_id)


class PointWriter:
    """Keeps points of one run until they are many, or `flush` is called."""

    def __init__(
        self,
        client: Client,
        run_id: str,
        batches: Batches,
        batch_size: int,
        bulk: BulkWriter | None,
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._batches = batches
        self._batch_size = batch_size
        self._bulk = bulk
        self._waiting: list[Points] = []
        self._count = 0
        self._most = 10 * batch_size if bulk is None else BULK_POINTS
        self._metrics: list[Metric] = []

    @property
    def full(self) -> bool:
        return self._count >= self._most

    def append(
        self,
        name: str,
        values: Sequence[float],
        timestamps_ms: Sequence[int],
        steps: Sequence[int],
    ) -> None:
        if len(values):
            self._waiting.append(Points(name, values, timestamps_ms, steps))
            self._count += len(values)

    def flush(self, then: Sequence[Callable[[], object]] = ()) -> None:
        """Write all that waits, and take the steps ``then``: in the same transaction where that can
        be, else behind it. What could not be written waits on.

        Args:
            then: as `Client.batched` takes them.

        Raises:
            TargetUnavailableError, TargetError
        """
        sound = [points for points in self._waiting if points.storable()]
        whole = self._bulk is not None and sound and self._bulk.fits(sound) and self._all(sound)
        if whole and self._write_with(sound, then):
            return
        if self._bulk is not None and sound:
            self._write_but_unsound(self._bulk, sound)
        self._flush_by_api()
        if then:
            self._client.batched(then)

    def _write_with(self, points: Sequence[Points], then: Sequence[Callable[[], object]]) -> bool:
        """Write all that waits and do ``then``, together; False if MLflow refuses some of it."""
        assert self._bulk is not None
        write = partial(self._write, self._bulk, points)
        try:
            self._client.batched([write, *then])
        except RefusedError as error:
            if error.code not in ITEM_FAULTS:
                raise
            return False
        self._waiting, self._count = [], 0
        return True

    def _write(self, bulk: BulkWriter, points: Sequence[Points]) -> None:
        if bulk.backs_off:
            bulk.write(self._run_id, points)
        else:
            self._client.call(bulk.write, self._run_id, points)

    def _write_but_unsound(self, bulk: BulkWriter, sound: Sequence[Points]) -> None:
        """Write what MLflow takes; what it refuses, though we do not know why, waits on."""
        try:
            self._write(bulk, sound)
        except RefusedNamesError as error:
            refused = [points for points in sound if points.name in error.names]
            self._batches.leave_out(_metrics(refused), str(error))
            self._waiting = [points for points in self._waiting if not points.storable()]
        except RefusedError as error:
            if error.code not in ITEM_FAULTS:
                raise
        else:
            self._waiting = [points for points in self._waiting if not points.storable()]

    def _all(self, sound: Sequence[Points]) -> bool:
        return len(sound) == len(self._waiting) and not self._metrics

    def _flush_by_api(self) -> None:
        waiting, self._waiting, self._count = self._waiting, [], 0
        self._metrics.extend(_metrics(waiting))
        while self._metrics:
            self._batches.log("metrics", self._metrics[: self._batch_size])
            del self._metrics[: self._batch_size]


def _metrics(waiting: Sequence[Points]) -> list[Metric]:
    from mlflow.entities import Metric

    return [
        Metric(points.name, value, at, step)
        for points in waiting
        for value, at, step in zip(*points[1:], strict=True)
    ]
