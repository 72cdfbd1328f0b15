"""Rules that map a W&B run's config, summary and description to MLflow.

Pure functions, which live replication and every backfill use, so that both write equal runs.
Raise `MAPPING_VERSION` when a rule changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow_wandb_plugin.core.identity import IDENTITY_CONFIG_KEYS
from mlflow_wandb_plugin.core.mlflow_terms import NOTES_TAG, USER_TAG
from mlflow_wandb_plugin.core.model import Key, RunInfo, RunState, as_float, flatten
from mlflow_wandb_plugin.core.redaction import Secrets, without_credentials
from mlflow_wandb_plugin.mapping.names import Limits, storable

MAPPING_VERSION = "3"

INTERNAL_CONFIG_KEY = "_wandb"

STATUS: Mapping[RunState, str] = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "crashed": "FAILED",
    "killed": "KILLED",
    "preempted": "KILLED",
}
"""W&B's run states as MLflow's run status."""


def shown(info: RunInfo, secrets: Secrets) -> RunInfo:
    """Return ``info`` without secrets, as it may be seen in MLflow."""
    facts = dict(info.facts)
    args = facts.get("args")
    if args:
        listed = args if isinstance(args, (list, tuple)) else str(args).split(" ")
        hidden = secrets.arguments(listed)
        facts["args"] = hidden if isinstance(args, (list, tuple)) else " ".join(hidden)
    return replace(
        info,
        name=secrets.text(info.name),
        notes=secrets.text(info.notes),
        tags=tuple(map(secrets.text, info.tags)),
        config=secrets.value(info.config),
        first_config={
            path: secrets.value(value, path) for path, value in info.first_config.items()
        },
        facts={
            name: value if name == "args" else secrets.value(value) for name, value in facts.items()
        },
    )


def hidden_params(info: RunInfo, shown_info: RunInfo) -> int:
    """Number of config leaves of ``info`` that are hidden in ``shown_info``."""
    first = shown_info.first_config
    return sum(
        first[path] is not value and first[path] != value
        for path, value in info.first_config.items()
    )


def params(info: RunInfo) -> dict[Key, str]:
    """Values of params by config leaf, not cut to MLflow's limit."""
    return {
        path: param_value(value)
        for path, value in info.first_config.items()
        if path[0] != INTERNAL_CONFIG_KEY and path[0] not in IDENTITY_CONFIG_KEYS
    }


def param_value(value: Any) -> str:
    """The text of a config leaf; lists and mappings as JSON."""
    if isinstance(value, (list, tuple, dict)):
        value = json.dumps(value, ensure_ascii=False)
    return str(value)


def changed_params(info: RunInfo) -> int:
    """Number of config leaves that have changed since their params were logged."""
    now = flatten(info.config)
    # Compare what MLflow stores: wandb-core may have replaced characters in between.
    return sum(
        path not in now or storable(param_value(now[path])) != storable(first)
        for path, first in params(info).items()
    )


def config_document(info: RunInfo) -> dict[str, Any]:
    """The user's present config, for ``wandb/config.json``."""
    return {key: value for key, value in info.config.items() if key != INTERNAL_CONFIG_KEY}


def is_step(value: float) -> bool:
    """Whether MLflow accepts the number as a step: an integer of 64 bits."""
    return float(value).is_integer() and abs(value) < 2**63


def last_step(info: RunInfo, step_metric: str = "") -> int:
    """The step of the last history row: the value of ``step_metric``, if it has one, or W&B's."""
    for path, value in info.last.items():
        if step_metric and ".".join(path) == step_metric and is_step(value):
            return int(value)
    return info.last_step or 0


def summary_points(info: RunInfo, step_metric: str = "") -> dict[Key, tuple[float, int, int]]:
    """Summary numbers that differ from the last value in history, as points at the last step.

    The point of a key that is in history is 1 ms later than the last row, so that MLflow's latest
    value is the one in W&B's summary.

    Returns:
        (value, step, timestamp in Unix ms) by key.
    """
    step = last_step(info, step_metric)
    at = info.last_ms if info.last_ms is not None else info.started_ms or 0
    points: dict[Key, tuple[float, int, int]] = {}
    for path, value in flatten(info.summary).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or _in_media(info, path):
            continue
        logged = info.last.get(path)
        number = as_float(value)
        if logged is None:
            points[path] = (number, step, at)
        elif logged != number and not (math.isnan(logged) and math.isnan(number)):
            points[path] = (number, step, at + 1)
    return points


def _in_media(info: RunInfo, path: Key) -> bool:
    """Whether a summary leaf is inside a media value, such as an image's width."""
    node: Any = info.summary
    for label in path[:-1]:
        node = node[label]
        if isinstance(node, Mapping) and "_type" in node:
            return True
    return False


def run_name(info: RunInfo) -> str:
    return (info.name or info.run_id)[: Limits.installed().run_name]


def run_tags(info: RunInfo) -> dict[str, str]:
    """All tags that describe the run, not cut to MLflow's limit; identity tags are not included."""
    facts = info.facts
    tags = {
        USER_TAG: facts.get("user") or facts.get("email") or facts.get("account") or "",
        NOTES_TAG: info.notes,
        "mlflow.source.name": facts.get("program", ""),
        "mlflow.source.type": "LOCAL" if facts.get("program") else "",
        "mlflow.source.git.commit": facts.get("git_commit", ""),
        "mlflow.source.git.repoURL": without_credentials(facts.get("git_remote", "")),
        "wandb.name": info.name,
        "wandb.url": info.url,
        "wandb.group": info.group,
        "run_group": info.group,
        "wandb.job_type": info.job_type,
        "wandb.sweep_id": info.sweep_id,
        "wandb.state": info.state if info.state != "running" else "",
        "wandb.exit_code": "" if info.exit_code is None else str(info.exit_code),
        "wandb.tags": json.dumps(list(info.tags), ensure_ascii=False) if info.tags else "",
    }
    for name in ("host", "os", "python", "executable", "docker", "gpu", "gpu_count", "cuda"):
        tags[f"wandb.{name}"] = str(facts.get(name, ""))
    if facts.get("args"):
        tags["wandb.args"] = json.dumps(facts["args"], ensure_ascii=False)
    for tag in info.tags:
        tags[f"wandb.tag.{tag}"] = "true"
    changed = changed_params(info)
    if changed:
        tags["wandb.config.changed"] = str(changed)
    return {key: value for key, value in tags.items() if value}


def experiment_name(template: str, entity: str, project: str) -> str:
    """Name of a project's experiment, with ``{entity}`` and ``{project}`` filled in."""
    name = template.replace("{entity}", entity).replace("{project}", project)
    return name[: Limits.installed().experiment_name]


def experiment_tags(entity: str, project: str) -> dict[str, str]:
    """Tags of a project's experiment; export-wandb-to-mlflow writes the same."""
    path = f"{entity}/{project}" if entity else project
    return {"migrate_from_wandb_project": path, "wandb_project_name": project}
