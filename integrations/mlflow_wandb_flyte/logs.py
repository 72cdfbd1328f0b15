"""``download_logs``: after a task that succeeded. What goes wrong is a warning, not a failure."""

from __future__ import annotations

import logging
from typing import Any

from mlflow_wandb_flyte.download import download_wandb_run_logs, download_wandb_sweep_logs

logger = logging.getLogger(__name__)


async def download_run(run: Any) -> None:
    """Download a run that has ended."""
    if run.offline:
        logger.warning("download_logs: run %s is offline, W&B has no logs of it", run.id)
        return
    try:
        await download_wandb_run_logs(run.id, run.project or "", run.entity or "")
    except Exception as error:
        logger.warning("download_logs: the logs of run %s were not had: %s", run.id, error)


async def download_sweep(sweep: Any) -> None:
    """Download the runs of a sweep."""
    try:
        await download_wandb_sweep_logs(sweep.sweep_id, sweep.project or "", sweep.entity or "")
    except Exception as error:
        logger.warning("download_logs: sweep %s was not had: %s", sweep.sweep_id, error)
