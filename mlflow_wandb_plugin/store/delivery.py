"""Wait until W&B has the runs that this process mirrors.

Processes of a container have to: the replicator ends with the container.
"""

from __future__ import annotations

import atexit
import functools
import logging
import time
from collections.abc import Sequence

from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.status_file import read_status
from mlflow_wandb_plugin.store import replicator_start, uris
from mlflow_wandb_plugin.store.mirrored_runs import current_mirror

logger = logging.getLogger(__name__)

POLL_S = 0.1


def arrived(run_id: str, seconds: float) -> bool:
    """Wait until W&B has a run that MLflow has ended.

    Args:
        run_id: MLflow's id. For a run that this process does not mirror, there is no wait.
        seconds: to wait at most. If W&B cannot be reached, the wait ends at once.

    Returns:
        Whether W&B has all of the run; if not, ``mlflow-wandb sync`` delivers its journal.
    """
    return _arrived([run_id], seconds)


def wait_for(run_id: str, seconds: float) -> None:
    """As `arrived`, with a warning where W&B lacks some of the run. Never raises."""
    try:
        if uris.any_mirrored() and not arrived(run_id, seconds):
            logger.warning("W&B does not have all of MLflow run %s yet", run_id)
    except Exception as error:
        logger.warning("cannot tell whether W&B has MLflow run %s: %s", run_id, error)


def all_arrived(seconds: float) -> bool:
    """As `arrived`, for all runs that this process mirrors."""
    return _arrived(current_mirror().run_ids, seconds)


@functools.cache
def wait_at_exit(seconds: float) -> None:
    """Wait when this process exits. A second call changes nothing."""
    if seconds > 0:
        atexit.register(_end_and_wait, seconds)


def _end_and_wait(seconds: float) -> None:
    """End runs that the script left open, as MLflow does a moment later, and wait for W&B."""
    import mlflow

    while mlflow.active_run() is not None:
        mlflow.end_run()
    all_arrived(seconds)


def _arrived(run_ids: Sequence[str], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    left = [current_mirror().journals.path(run_id) for run_id in run_ids]
    while left := [path for path in left if path.exists()]:
        stuck = [path for path in left if read_status(path).get("state") in outbox.STUCK]
        if len(stuck) == len(left) or time.monotonic() > deadline:
            return False
        replicator_start.ensure_running(left[0].parent)
        time.sleep(POLL_S)
    return True
