"""The MLflow run of a task: the replica of its W&B run, or a run that is mirrored to W&B."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flyte

from mlflow_wandb_flyte import current_run, keys
from mlflow_wandb_flyte.context import changed_context, get_mlflow_context
from mlflow_wandb_flyte.links import run_link
from mlflow_wandb_plugin.store import waiting_store

WAITING = "waiting:"
"""Precedes the id of a run that stands for one that MLflow does not have (`waiting_store`)."""

_open_runs: dict[str, Any] = {}
"""MLflow runs that tasks of this process have open, by the id that their children are given."""


def inherited_run() -> tuple[str, Any]:
    """Return the id of the parent task's MLflow run, and the run if this process has it open.

    The id is empty if there is none, or none that MLflow has.
    """
    passed = (flyte.ctx().custom_context or {}).get(keys.MLFLOW_RUN_ID, "")
    return "" if passed.startswith(WAITING) else passed, _open_runs.get(passed)


@contextmanager
def task_run(
    run: Any, link_host: str | None = None, link_template: str | None = None
) -> Iterator[None]:
    """Make ``run`` the task's MLflow run and MLflow's active one, and pass its id and link to child
    tasks."""
    waits = waiting_store.has(run.info.run_id)
    passed = {keys.MLFLOW_RUN_ID: f"{WAITING if waits else ''}{run.info.run_id}"}
    config = get_mlflow_context()
    host = link_host or (config.link_host if config else None)
    if host and not waits:
        template = link_template or (config.link_template if config else None)
        passed[keys.MLFLOW_LINK] = run_link(host, template, run.info.experiment_id, run.info.run_id)
    # The configured run id is used up: children must not take it for their own run.
    drop = ("mlflow_run_id", keys.MLFLOW_LINK)
    opened_here = passed[keys.MLFLOW_RUN_ID] not in _open_runs
    _open_runs.setdefault(passed[keys.MLFLOW_RUN_ID], run)
    changed = changed_context(add=passed, drop=drop, data={keys.MLFLOW_RUN: run})
    try:
        with changed, current_run.mlflow_runs(run):
            yield
    finally:
        if opened_here:
            _open_runs.pop(passed[keys.MLFLOW_RUN_ID], None)


def flyte_tags() -> dict[str, str]:
    """Tags of an MLflow run that name the Flyte action that logs it."""
    action = flyte.ctx().action
    names = ("name", "run_name", "project", "domain")
    tags = {f"flyte.{'action_name' if n == 'name' else n}": getattr(action, n) for n in names}
    return {key: value for key, value in tags.items() if value}
