"""W&B's side of a run that is born in MLflow: the task's MLflow store is a mirrored one."""

from __future__ import annotations

import logging

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.settings import Settings

logger = logging.getLogger(__name__)


def use(uri: str | None) -> None:
    """Have MLflow use the store at ``uri`` (None: the one it uses), and mirror it into W&B.

    ``MLFLOW_WANDB_HOMES=mlflow`` leaves W&B out, and so does a store that cannot be mirrored.
    """
    import mlflow

    before = mlflow.get_tracking_uri()
    wanted = uri or before
    if Settings.load().homes == "both":
        from mlflow_wandb_plugin.store import uris

        plain = wanted.removeprefix(uris.PREFIX)
        try:
            if not uris.is_mirrored(uris.native(f"{uris.PREFIX}{plain}")):
                wanted = f"{uris.PREFIX}{plain}"
        except UsageError as error:
            logger.warning("what MLflow's own calls log stays in MLflow: %s", error)
    if wanted != before:
        mlflow.set_tracking_uri(wanted)


def wait(run_id: str) -> None:
    """Wait until W&B has the run, as `wandb.finish` does: when the task ends, its container may.

    At most ``MLFLOW_WANDB_FINISH_TIMEOUT`` seconds, and not where W&B cannot be reached; what is
    missing then waits in the journal.
    """
    from mlflow_wandb_plugin.store import uris

    if not uris.any_mirrored():
        return
    from mlflow_wandb_plugin.store import delivery

    try:
        if not delivery.arrived(run_id, Settings.load().finish_timeout):
            logger.warning("W&B has not all of MLflow run %s yet", run_id)
    except Exception as error:
        logger.warning("whether W&B has MLflow run %s is not known: %s", run_id, error)
