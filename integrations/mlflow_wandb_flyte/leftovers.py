"""MLflow runs that killed worker processes left open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from mlflow_wandb_flyte.mlflow_session import MlflowOptions
from mlflow_wandb_flyte.twin import flyte_tags

logger = logging.getLogger(__name__)


async def end_leftovers(tracked_by: Sequence[Any]) -> None:
    """End the runs that this action began in MLflow and that still run, as killed. W&B's replicas
    are not among them: their replicator sees its process die."""
    for options in tracked_by:
        if isinstance(options, MlflowOptions):
            try:
                await asyncio.to_thread(_end, options)
            except Exception as error:
                logger.warning("MLflow runs of killed workers could not be ended: %s", error)


def _end(options: MlflowOptions) -> None:
    import mlflow
    from mlflow.tracking import fluent

    given: dict[str, Any] = options.arguments()
    client = mlflow.MlflowClient(given.get("tracking_uri"))
    experiment: Any = given.get("experiment_id")
    if not experiment and given.get("experiment_name"):
        named = client.get_experiment_by_name(given["experiment_name"])
        experiment = named.experiment_id if named else None
    tags = flyte_tags()
    ours = " and ".join(
        f"tags.`{key}` = '{tags[key]}'" for key in ("flyte.run_name", "flyte.action_name")
    )
    experiment = experiment or fluent._get_experiment_id()
    found = client.search_runs([str(experiment)], f"{ours} and attributes.status = 'RUNNING'")
    for run in found:
        client.set_terminated(run.info.run_id, "KILLED")
