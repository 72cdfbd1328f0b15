"""Logs metrics, params and tags of one run by MLflow's ``log_batch``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mlflow_wandb_plugin.mapping.names import Limits
from mlflow_wandb_plugin.targets.mlflow.client import (
    EXISTS,
    ITEM_FAULTS,
    Client,
    RefusedError,
    deleted,
)
from mlflow_wandb_plugin.targets.mlflow.files.losses import REFUSED_METRIC, Loss, Losses

if TYPE_CHECKING:
    from mlflow.entities import Metric

BatchKind: TypeAlias = Literal["metrics", "params", "tags"]
_REFUSED = {"metrics": REFUSED_METRIC, "params": "param_refused", "tags": "runtag_refused"}
"""Kinds of losses."""


class Batches:
    """Logs batches; an item that MLflow refuses is left out and counted."""

    def __init__(self, client: Client, run_id: str, losses: Losses) -> None:
        self.client = client
        self.run_id = run_id
        self.losses = losses
        self._limits = Limits.installed()

    def log(self, kind: BatchKind, items: Sequence[Any]) -> None:
        """Log items of MLflow's class for ``kind``, as many at once as MLflow takes."""
        size = self._limits.batch_metrics if kind == "metrics" else self._limits.batch_params
        for start in range(0, len(items), size):
            self._log(kind, items[start : start + size], check_run=True)

    def _log(self, kind: BatchKind, items: Sequence[Any], check_run: bool) -> None:
        """If MLflow refuses a batch, halve it until only the bad item is left out. A point that
        the run has already is not lost."""
        try:
            self.client.log_batch(self.run_id, **{kind: items})
        except RefusedError as error:
            if error.code not in ITEM_FAULTS:
                raise
            # MLflow refuses each item of a deleted run with the code of a bad one.
            get_run = self.client.mlflow.get_run
            if (
                check_run
                and self.client.call(get_run, self.run_id).info.lifecycle_stage != "active"
            ):
                raise deleted(self.run_id) from error
            if len(items) == 1:
                if kind == "metrics" and error.code == EXISTS:
                    return
                self.losses.add(_REFUSED[kind], _loss(items[0], str(error)), once=True)
                return
            middle = len(items) // 2
            self._log(kind, items[:middle], check_run=False)
            self._log(kind, items[middle:], check_run=False)

    def leave_out(self, metrics: Iterable[Metric], reason: str) -> None:
        """Count points that MLflow refuses."""
        for metric in metrics:
            self.losses.add(REFUSED_METRIC, _loss(metric, reason), once=True)


def _loss(item: Any, reason: str) -> Loss:
    """Describe a Metric, Param or RunTag of MLflow's."""
    from mlflow.entities import Metric

    if isinstance(item, Metric):
        return Loss(item.key, reason, str(item.value), str(item.step), str(item.timestamp))
    return Loss(item.key, reason, str(item.value))
