"""Arguments of Ray's own integrations, which those of this package take, too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mlflow_wandb_plugin.core.arguments import check_arguments
from mlflow_wandb_plugin.errors import UsageError

INSTEAD = {
    "api_key": "pass api_key_file, or set WANDB_API_KEY: Ray would send a key to the controller",
    "tracking_token": "set MLFLOW_TRACKING_TOKEN",
    "experiment_name": "pass experiment",
    "registry_uri": "set MLFLOW_REGISTRY_URI",
}
"""What to do instead of arguments that only the callback for Tune and `setup_dual` take."""


class MissingArgumentError(UsageError, ValueError):
    """An argument without which nothing can be logged is in no variable either."""


def check_init_arguments(name: str, given: Mapping[str, Any]) -> None:
    """Refuse what ``wandb.init`` does not take: it may be called in a thread, and refused there.

    Raises:
        UnknownArgumentError: an argument is unknown to ``name``.
    """
    import wandb

    check_arguments(name, given, wandb.init, instead=INSTEAD)


def find_experiment(
    tracking_uri: str | None = None,
    experiment_id: str | None = None,
    experiment_name: str | None = None,
    artifact_location: str | None = None,
    create: bool = False,
    registry_uri: str | None = None,
    tracking_token: str | None = None,
) -> str | None:
    """Configure MLflow in this process, and find or create an experiment, as Ray's own does.

    MLflow is asked only where it must be: not for a name that may be created.

    Args:
        experiment_id: takes precedence over the name; None means ``MLFLOW_EXPERIMENT_ID``.
        experiment_name: None means ``MLFLOW_EXPERIMENT_NAME``.
        create: create an experiment that does not exist.

    Returns:
        The experiment's name; None if neither an id nor a name is given.

    Raises:
        ValueError: there is no such experiment.
    """
    if tracking_token:
        os.environ["MLFLOW_TRACKING_TOKEN"] = tracking_token
    if registry_uri:
        import mlflow

        mlflow.set_registry_uri(registry_uri)
    experiment_id = experiment_id or os.environ.get("MLFLOW_EXPERIMENT_ID")
    experiment_name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    may_be_new = create and not artifact_location
    if experiment_id is None and (experiment_name is None or may_be_new):
        return experiment_name
    import mlflow
    from ray.air._internal.mlflow import _MLflowLoggerUtil

    finder = _MLflowLoggerUtil()
    finder.setup_mlflow(
        tracking_uri or mlflow.get_tracking_uri(), registry_uri, experiment_id, experiment_name,
        tracking_token, artifact_location, create,
    )  # fmt: skip
    return str(mlflow.get_experiment(finder.experiment_id).name)
