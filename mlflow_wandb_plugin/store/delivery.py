"""Waiting until W&B has what this process mirrored, for who must: where the process is a
container's, the forwarder ends with it."""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Iterable
from pathlib import Path

from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.status import read_status
from mlflow_wandb_plugin.store import forwarder_process
from mlflow_wandb_plugin.store.mirrored_runs import of_this_process

POLL_S = 0.1


def arrived(run_id: str, seconds: float) -> bool:
    """Wait until W&B has a run that MLflow has ended.

    Args:
        run_id: MLflow's. One that this process does not mirror needs no waiting.
        seconds: to wait at most. Where W&B cannot be reached, the wait ends at once.

    Returns:
        Whether W&B has all of it; if not, its journal is there for ``mlflow-wandb sync``.
    """
    return _arrived([of_this_process().journals.path(run_id)], seconds)


def all_arrived(seconds: float) -> bool:
    """`arrived`, for every run that this process mirrors."""
    mirror = of_this_process()
    return _arrived([mirror.journals.path(run_id) for run_id in mirror.run_ids], seconds)


@functools.cache
def wait_at_exit(seconds: float) -> None:
    """Have this process wait at its end. A second call changes nothing."""
    if seconds > 0:
        atexit.register(_end_and_wait, seconds)


def _end_and_wait(seconds: float) -> None:
    """End what the script left open, as MLflow does a moment later, and wait for W&B."""
    import mlflow

    while mlflow.active_run() is not None:
        mlflow.end_run()
    all_arrived(seconds)


def _arrived(journals: Iterable[Path], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    left = list(journals)
    while left := [path for path in left if path.exists()]:
        stuck = [path for path in left if read_status(path).get("state") in outbox.STUCK]
        if len(stuck) == len(left) or time.monotonic() > deadline:
            return False
        forwarder_process.ensure_running(left[0].parent)
        time.sleep(POLL_S)
    return True
