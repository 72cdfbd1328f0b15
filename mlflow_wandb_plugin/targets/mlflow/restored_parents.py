"""Nests runs that were created in MLflow as they were nested there.

A parent is found by the identity of its own replica: an id in a config chooses no other run.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.mlflow_terms import PARENT_TAG
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.targets.mlflow.client import Client

_TAGS = (
    identity.RUN_ID,
    identity.PROJECT,
    identity.ENTITY,
    *identity.all_names(identity.RESTORED),
    *identity.all_names(identity.PARENT_ID),
)


def parent_of(client: Client, info: RunInfo) -> str | None:
    """The id of the replica of a restored run's parent; None while there is none."""
    named = info.mlflow.parent_id if info.mlflow is not None else ""
    if not named or named == info.run_id:
        return None
    found = client.call(client.client.find_runs, _TAGS, identity.RUN_ID, named)
    runs = [run.run_id for run in found if _is_of_project(info, run.tags)]
    return min(runs, default=None)


def adopt_children(client: Client, info: RunInfo, run_id: str) -> None:
    """Nest the runs below ``run_id``, the replica of ``info``, that were there before it."""
    from mlflow.entities import RunTag

    find = client.client.find_runs
    names = identity.all_names(identity.PARENT_ID)
    found = [child for name in names for child in client.call(find, _TAGS, name, info.run_id)]
    for child in found:
        if _is_of_project(info, child.tags) and child.run_id != run_id:
            client.log_batch(child.run_id, tags=[RunTag(PARENT_TAG, run_id)])


def _is_of_project(info: RunInfo, tags: Mapping[str, str]) -> bool:
    """Whether a run with ``tags`` is a restored one of the W&B project of ``info``."""
    restored = identity.RESTORED in tags and tags.get(identity.PROJECT) == info.project
    entity = tags.get(identity.ENTITY, "")
    return restored and (not entity or not info.entity or entity == info.entity)
