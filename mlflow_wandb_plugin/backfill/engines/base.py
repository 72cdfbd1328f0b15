"""Engine interface: how the runs of a backfill are carried outside this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.options import Job
from mlflow_wandb_plugin.backfill.outcome import Listener, Outcome


class Engine(Protocol):
    """Carries the runs of a backfill in other processes."""

    def check(self, job: Job) -> None:
        """Check the job before anything is started.

        Raises:
            UsageError: this engine cannot do ``job``.
        """

    def run(self, job: Job, listener: Listener, curves: Curves) -> Iterator[Outcome]:
        """Yield one outcome per run, as each is done, as `threads.backfill` does.

        Raises:
            UsageError: it cannot be done.
            SourceError: the source cannot be listed.
        """
