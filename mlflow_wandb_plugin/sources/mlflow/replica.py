"""Describe runs that came from W&B into MLflow, on their way back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.mlflow_terms import NOTES_TAG, USER_TAG
from mlflow_wandb_plugin.core.model import RunInfo, RunState
from mlflow_wandb_plugin.core.step_axes import from_text
from mlflow_wandb_plugin.mapping import to_mlflow
from mlflow_wandb_plugin.mapping.to_wandb import SEGMENT
from mlflow_wandb_plugin.sources.mlflow.run_description import (
    MLFLOW_RUN_ID,
    STATES,
    run_info,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

_FACTS = {
    "user": USER_TAG,
    "program": "mlflow.source.name",
    "git_commit": "mlflow.source.git.commit",
    "git_remote": "mlflow.source.git.repoURL",
    **{fact: f"wandb.{fact}" for fact in to_mlflow.MACHINE_FACTS},
}
"""Tags of a replica by the fact that they hold."""


def is_replica(run: Run) -> bool:
    """Whether the run came from W&B; not one that was created in MLflow and is so again."""
    tags = identity.present_tags(run.data.tags)
    came = identity.RUN_ID in tags and identity.PROJECT in tags and identity.RESTORED not in tags
    return came and tags.get(identity.ORIGIN) != identity.MIRROR


def is_parent_of_replicas(run: Run) -> bool:
    """Whether the run is only the parent of a sweep's or a group's runs, which W&B has not."""
    return bool(
        identity.present_tags(run.data.tags).keys() & {identity.SWEEP, identity.PARENT_GROUP}
    )


def described(run: Run, experiment: str, tracking_uri: str) -> RunInfo:
    """Describe a run as far as MLflow's entity has it."""
    return replica_info(run) if is_replica(run) else run_info(run, experiment, tracking_uri)


def replica_info(run: Run, long_tags: Mapping[str, str] | None = None) -> RunInfo:
    """Describe a run that came from W&B, without its config and summary, which are files.

    Args:
        long_tags: the full values of tags that MLflow has cut, which are in a file.
    """
    tags, info = identity.present_tags(run.data.tags), run.info
    described = tags.keys() & {NOTES_TAG, identity.NAME, to_mlflow.TAGS, to_mlflow.ARGUMENTS}
    full = identity.present_tags(long_tags or {})
    tags |= {tag: text for tag, text in full.items() if tag in described}
    state: RunState = STATES.get(info.status, "running")
    named: Any = tags.get(to_mlflow.STATE)
    if state != "running" and named in get_args(RunState):
        state = named
    facts = {fact: tags[tag] for fact, tag in _FACTS.items() if tags.get(tag)}
    return RunInfo(
        run_id=tags[identity.RUN_ID],
        project=tags[identity.PROJECT],
        entity=tags.get(identity.ENTITY, ""),
        name=tags.get(identity.NAME, ""),
        notes=tags.get(NOTES_TAG, ""),
        tags=tuple(map(str, _json(tags, to_mlflow.TAGS, []))),
        group=tags.get(identity.GROUP, ""),
        job_type=tags.get(to_mlflow.JOB_TYPE, ""),
        sweep_id=tags.get(to_mlflow.SWEEP_ID, ""),
        url=tags.get(to_mlflow.URL, ""),
        segments=(SEGMENT,),
        state=state,
        exit_code=_number(tags.get(to_mlflow.EXIT_CODE)),
        started_ms=info.start_time,
        ended_ms=None if state == "running" else info.end_time,
        step_definitions=from_text(tags.get(identity.STEPS, "{}"))[0],
        facts=facts | {"args": _json(tags, to_mlflow.ARGUMENTS, []), MLFLOW_RUN_ID: info.run_id},
    )


def _json(tags: Mapping[str, str], tag: str, default: list[Any]) -> list[Any]:
    try:
        found = json.loads(tags.get(tag, "[]"))
    except ValueError:
        return default
    return found if isinstance(found, list) else default


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
