"""What an engine offers: a way to carry the runs of a backfill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.job import Job
from mlflow_wandb_plugin.backfill.outcome import Listener, Outcome


class Engine(Protocol):
    """Carries the runs of a backfill, elsewhere than in threads of this process."""

    def check(self, job: Job) -> None:
        """
        Raises:
            UsageError: this engine cannot do ``job``; nothing has been started.
        """

    def run(self, job: Job, listener: Listener, curves: Curves) -> Iterator[Outcome]:
        """Yield an outcome a run, as each is done, as `backfill.engine.backfill` does.

        Raises:
            UsageError: it cannot be done.
            SourceError: the source cannot be listed.
        """
