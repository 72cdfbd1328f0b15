"""Logs metrics, params and tags of one run by MLflow's ``log_batch``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from mlflow_wandb_plugin.targets.mlflow.client import ITEM_FAULTS, Client, RefusedError, deleted
from mlflow_wandb_plugin.targets.mlflow.run_files import RunFiles

BatchKind: TypeAlias = Literal["metrics", "params", "tags"]


class Batches:
    """Logs batches; an item that MLflow refuses is left out and counted."""

    def __init__(self, client: Client, run_id: str, files: RunFiles, losses: Counter[str]) -> None:
        self._client = client
        self._run_id = run_id
        self._files = files
        self._losses = losses

    def log(self, kind: BatchKind, items: Sequence[Any]) -> None:
        """Log items of MLflow's class for ``kind``, no more than MLflow takes at once."""
        self._log(kind, items, check_run=True)

    def _log(self, kind: BatchKind, items: Sequence[Any], check_run: bool) -> None:
        """If MLflow refuses a batch, halve it until only the bad item is left out."""
        try:
            self._client.log_batch(self._run_id, **{kind: items})
        except RefusedError as error:
            if error.code not in ITEM_FAULTS:
                raise
            if check_run:
                self._check_active()
            if len(items) == 1:
                self.leave_out(items, str(error))
                return
            middle = len(items) // 2
            self._log(kind, items[:middle], check_run=False)
            self._log(kind, items[middle:], check_run=False)

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
