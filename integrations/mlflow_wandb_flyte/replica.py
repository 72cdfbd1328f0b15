"""The replica of a task's run: in MLflow of a W&B run, in W&B of an MLflow run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flyte

from mlflow_wandb_flyte import current_run, keys
from mlflow_wandb_flyte.context import changed_context, get_mlflow_context
from mlflow_wandb_flyte.links import run_link
from mlflow_wandb_plugin.core.training_settings import load_settings
from mlflow_wandb_plugin.errors import UsageError

logger = logging.getLogger(__name__)


# -- in MLflow, of a W&B run --------------------------------------------------------------------


@contextmanager
def active_replica(run: Any, link_host: str | None = None) -> Iterator[None]:
    """Make the MLflow replica of the W&B run ``run`` MLflow's active run.

    If MLflow has not answered yet, the task runs without it; MLflow's calls then start runs of
    their own, as MLflow always does.
    """
    if (replica := _replica(run)) is None:
        yield
        return
    with task_run(replica, link_host), current_run.mlflow_runs(replica):
        yield


@contextmanager
def task_run(
    run: Any, link_host: str | None = None, link_template: str | None = None
) -> Iterator[None]:
    """Make ``run`` the task's MLflow run, and pass its id and link to child tasks."""
    config = get_mlflow_context()
    passed = {keys.MLFLOW_RUN_ID: run.info.run_id}
    host = link_host or (config.link_host if config else None)
    if host:
        template = link_template or (config.link_template if config else None)
        passed[keys.MLFLOW_LINK] = run_link(host, template, run.info.experiment_id, run.info.run_id)
    # The configured run id is used up: children must not take it for their own run.
    drop = ("mlflow_run_id", keys.MLFLOW_LINK)
    with changed_context(add=passed, drop=drop, data={keys.MLFLOW_RUN: run}):
        yield


def as_active_run(run: Any) -> Any:
    """Return ``run`` in the class that ``mlflow.active_run`` returns."""
    import mlflow

    active_run: Any = mlflow.ActiveRun
    return active_run(run)


def flyte_tags() -> dict[str, str]:
    """Tags of an MLflow run that name the Flyte action that logs it."""
    action = flyte.ctx().action
    names = ("name", "run_name", "project", "domain")
    tags = {f"flyte.{'action_name' if n == 'name' else n}": getattr(action, n) for n in names}
    return {key: value for key, value in tags.items() if value}


def _replica(run: Any) -> Any:
    run_id = run.config.get("mlflow_run_id")
    if not run_id:
        logger.warning("MLflow has not answered yet: the task runs without an MLflow run")
        return None
    import mlflow

    from mlflow_wandb_plugin.core import tracking_uri
    from mlflow_wandb_plugin.live import tap

    try:
        wanted = tracking_uri.uri(tap.settings())
        if wanted and mlflow.get_tracking_uri() != wanted:
            mlflow.set_tracking_uri(wanted)
        client = mlflow.MlflowClient()
        for key, value in flyte_tags().items():
            client.set_tag(run_id, key, value)
        return as_active_run(client.get_run(run_id))
    except Exception as error:
        logger.warning("MLflow run %s cannot be used in the task: %s", run_id, error)
        return None


# -- in W&B, of an MLflow run -------------------------------------------------------------------


def use_mirrored_store(uri: str | None) -> None:
    """Have MLflow use the store at ``uri`` (None: the current one) and mirror it to W&B.

    With ``MLFLOW_WANDB_HOMES=mlflow``, or a store that cannot be mirrored, nothing goes to W&B.
    """
    import mlflow

    before = mlflow.get_tracking_uri()
    wanted = uri or before
    if load_settings().homes == "both":
        from mlflow_wandb_plugin.store import uris

        plain = wanted.removeprefix(uris.PREFIX)
        try:
            if not uris.is_mirrored(uris.native(f"{uris.PREFIX}{plain}")):
                wanted = f"{uris.PREFIX}{plain}"
        except UsageError as error:
            logger.warning("what MLflow's own calls log stays in MLflow: %s", error)
    if wanted != before:
        mlflow.set_tracking_uri(wanted)


def wait_for_wandb(run_id: str) -> None:
    """Wait until W&B has the MLflow run: the container may end with the task.

    Waits at most ``MLFLOW_WANDB_FINISH_TIMEOUT`` seconds, and not if W&B cannot be reached. What
    W&B lacks then stays in the journal.
    """
    from mlflow_wandb_plugin.store import uris

    if not uris.any_mirrored():
        return
    from mlflow_wandb_plugin.store import delivery

    try:
        if not delivery.arrived(run_id, load_settings().finish_timeout):
            logger.warning("W&B does not have all of MLflow run %s yet", run_id)
    except Exception as error:
        logger.warning("cannot tell whether W&B has MLflow run %s: %s", run_id, error)
