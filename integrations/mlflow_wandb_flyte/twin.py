"""MLflow's side of a `track` task: the replica of its W&B run is MLflow's active run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import flyte

from mlflow_wandb_flyte import active
from mlflow_wandb_flyte.context import changed_context, get_mlflow_context
from mlflow_wandb_flyte.links import run_link

logger = logging.getLogger(__name__)

MLFLOW_RUN_KEY = "_mlflow_run"


@contextmanager
def active_twin(run: Any, link_host: str | None = None) -> Iterator[None]:
    """Inside, MLflow's own calls log into the replica of the W&B run ``run``.

    Where MLflow has not answered yet the task goes on without; MLflow's calls then make runs of
    their own, as they always do.
    """
    twin = _twin(run)
    if twin is None:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(passed_on(twin, link_host))
        stack.enter_context(active.mlflow_runs(twin))
        yield


@contextmanager
def passed_on(
    run: Any, link_host: str | None = None, link_template: str | None = None
) -> Iterator[None]:
    """Inside, ``run`` is the task's MLflow run, and children know its id and link."""
    config = get_mlflow_context()
    passed = {"_mlflow_run_id": run.info.run_id}
    host = link_host or (config.link_host if config else None)
    if host:
        template = link_template or (config.link_template if config else None)
        passed["_mlflow_link"] = run_link(host, template, run.info.experiment_id, run.info.run_id)
    # A configured run id has found its run.
    drop = ("mlflow_run_id", "_mlflow_link")
    with changed_context(add=passed, drop=drop, data={MLFLOW_RUN_KEY: run}):
        yield


def as_active(run: Any) -> Any:
    """A run as ``mlflow.active_run`` gives it."""
    import mlflow

    active_run: Any = mlflow.ActiveRun
    return active_run(run)


def flyte_tags() -> dict[str, str]:
    """What ties an MLflow run to the action that logs it."""
    action = flyte.ctx().action
    names = ("name", "run_name", "project", "domain")
    tags = {f"flyte.{'action_name' if n == 'name' else n}": getattr(action, n) for n in names}
    return {key: value for key, value in tags.items() if value}


def _twin(run: Any) -> Any:
    run_id = run.config.get("mlflow_run_id")
    if not run_id:
        logger.warning("MLflow has not answered yet: the task goes on without an MLflow run")
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
        return as_active(client.get_run(run_id))
    except Exception as error:
        logger.warning("MLflow run %s cannot be used in the task: %s", run_id, error)
        return None
