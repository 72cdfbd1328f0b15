"""Rules that map a W&B run's config, summary and description to MLflow.

Pure functions, which live replication and every backfill use, so that both write equal runs.
Raise `MAPPING_VERSION` when a rule changes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import CALLS_CONFIG_KEY, IDENTITY_CONFIG_KEYS
from mlflow_wandb_plugin.core.mlflow_terms import NOTES_TAG, USER_TAG
from mlflow_wandb_plugin.core.model import (
    INT64,
    Key,
    RowObjects,
    RunInfo,
    RunState,
    as_float,
    flatten,
)
from mlflow_wandb_plugin.core.redaction import Secrets, without_credentials
from mlflow_wandb_plugin.core.step_axes import StepAxes
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.mapping import to_wandb
from mlflow_wandb_plugin.mapping.names import Limits, storable
from mlflow_wandb_plugin.settings import SECRETS_SHOWN

MAPPING_VERSION = "5"

WANDB_STEPS = StepAxes()
"""All keys have W&B's steps."""

JOB_TYPE = "wandb.job_type"
TAGS = "wandb.tags"
"""The tag with the W&B run's tags, as a JSON list."""
STATE = "wandb.state"
"""The tag with W&B's state of a run that has ended."""
EDITABLE_TAGS = (identity.NAME, identity.GROUP, JOB_TYPE, TAGS)
"""Tags of what may be removed from a W&B run."""
SWEEP_ID = "wandb.sweep_id"

INTERNAL_CONFIG_KEY = "_wandb"
DEFINITIONS = "m"
"""The key of W&B's internal config with the definitions of metrics."""

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


def has_mlflow_calls(info: RunInfo) -> bool:
    """Whether MLflow's calls logged to the run, too: then a row with `to_wandb.STEP_METRIC` has the
    step of their points, and what is below `to_wandb.FILES_DIR` are the MLflow run's files."""
    return isinstance(info.config.get(CALLS_CONFIG_KEY), Mapping)


def calls_waited(info: RunInfo) -> bool:
    """Whether MLflow did not answer when the run began, or within it: then what its calls logged
    may be in the W&B run alone."""
    section = info.config.get(CALLS_CONFIG_KEY)
    return isinstance(section, Mapping) and section.get("active") is False


def places_of_calls(row: RowObjects) -> tuple[RowObjects, dict[str, tuple[int, int]]]:
    """Split what `to_wandb.POINTS_KEY` says from a row: (step, Unix ms) by dotted key."""
    text = row.values.get((to_wandb.POINTS_KEY,))
    if not isinstance(text, str):
        return row, {}
    rest = {key: value for key, value in row.values.items() if key != (to_wandb.POINTS_KEY,)}
    try:
        named = json.loads(text).items()
        places = {str(key): (int(step), int(at_ms)) for key, (step, at_ms) in named}
    except (ValueError, TypeError, AttributeError, OverflowError):
        places = {}
    stored = {key: place for key, place in places.items() if all(map(is_step, place))}
    return replace(row, values=rest), stored


def tags_of_calls(info: RunInfo) -> dict[str, str]:
    """The tags that MLflow's calls have set, as the W&B config has them."""
    section = info.config.get(CALLS_CONFIG_KEY)
    tags = section.get("tags") if isinstance(section, Mapping) else None
    return {
        str(key): value
        for key, value in (tags.items() if isinstance(tags, Mapping) else ())
        if isinstance(value, str) and not str(key).startswith(("mlflow.", "wandb."))
    }


def used_by_calls(info: RunInfo) -> frozenset[str]:
    """The artifacts, as name:version, that are datasets which MLflow's calls have logged."""
    section = info.config.get(CALLS_CONFIG_KEY)
    used = section.get("used") if isinstance(section, Mapping) else None
    return frozenset(map(str, used if isinstance(used, list) else ()))


def hidden_params(info: RunInfo, shown_info: RunInfo) -> int:
    """Number of config leaves of ``info`` that are hidden in ``shown_info``."""
    first = shown_info.first_config
    return sum(
        first[path] is not value and first[path] != value
        for path, value in info.first_config.items()
    )


def params(info: RunInfo) -> dict[Key, str]:
    """Values of params by config leaf, not cut to MLflow's limit.

    They are in the order of their dotted keys: the first of two with one name in MLflow gets it,
    and W&B's server orders a config anew.
    """
    return {
        path: param_value(value)
        for path, value in sorted(info.first_config.items(), key=_in_order)
        if info.mlflow is not None
        or (path[0] != INTERNAL_CONFIG_KEY and path[0] not in IDENTITY_CONFIG_KEYS)
    }


def _in_order(leaf: tuple[Key, Any]) -> tuple[str, int]:
    """Sort leaves by dotted key, and those of one dotted key by depth."""
    return ".".join(leaf[0]), len(leaf[0])


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


def metric_definitions(info: RunInfo) -> list[Any]:
    """The definitions of metrics, for ``wandb/metric_definitions.json``; W&B's server has them."""
    internal = info.config.get(INTERNAL_CONFIG_KEY)
    listed = internal.get(DEFINITIONS) if isinstance(internal, Mapping) else None
    return listed if isinstance(listed, list) else []


def is_step(value: float) -> bool:
    """Whether MLflow accepts the number as a step: an integer of 64 bits."""
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return False  # NaN or an infinity
    return number == value and -INT64 <= number < INT64


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and is_step(value)


def run_time(time_ms: int | None) -> int | None:
    """The start or the end of a run in Unix ms; None if it is unknown or MLflow cannot store it."""
    return time_ms if time_ms is not None and is_step(time_ms) else None


def lost_run_times(info: RunInfo) -> int:
    """Number of the run's times that MLflow cannot store."""
    return sum(at is not None and run_time(at) is None for at in (info.started_ms, info.ended_ms))


def last_step(info: RunInfo, path: Key, axes: StepAxes = WANDB_STEPS) -> int:
    """The step of a key's point after the last history row: the last value of its step metric, if
    it has one, or W&B's step. A resumed run's log without rows has that value from the run's
    earlier logs."""
    last = info.last_step or 0
    step_metric = axes.metric(".".join(_logged_key(info, path)), last)
    for known in (info.last, info.carried) if step_metric else ():
        for key, value in known.items():
            if ".".join(key) == step_metric and _is_whole(value):
                return int(value)
    return last


def _logged_key(info: RunInfo, path: Key) -> Key:
    """The key of which a summary leaf is a statistic, such as ``("loss", "min")``; else itself."""
    is_statistic = path not in info.last and path[:-1] in info.last
    return path[:-1] if is_statistic else path


def summary_points(
    info: RunInfo, axes: StepAxes = WANDB_STEPS
) -> dict[Key, tuple[float, int, int]]:
    """Summary numbers that differ from the last value in history, as points at the last step.

    What a resumed run's log took over from the run's earlier logs is no news.

    The point of a key that is in history is 1 ms later than the last row, so that MLflow's latest
    value is the one in W&B's summary.

    Returns:
        (value, step, timestamp in Unix ms) by key.
    """
    at = info.last_ms if info.last_ms is not None else info.started_ms or 0
    points: dict[Key, tuple[float, int, int]] = {}
    for path, value in sorted(flatten(info.summary).items(), key=_in_order):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or _in_media(info, path):
            continue
        logged = info.last.get(path)
        number = as_float(value)
        if path in info.carried and same_value(info.carried[path], number):
            continue
        step = last_step(info, path, axes)
        if logged is None:
            points[path] = (number, step, at)
        elif not same_value(logged, number):
            points[path] = (number, step, at + 1)
    return points


def same_value(one: Any, other: float) -> bool:
    """Whether a value is the number ``other``; NaN is the same as NaN."""
    if isinstance(one, bool) or not isinstance(one, (int, float)):
        return False
    return as_float(one) == other or (math.isnan(one) and math.isnan(other))


def _in_media(info: RunInfo, path: Key) -> bool:
    """Whether a summary leaf is inside a media value, such as an image's width."""
    node: Any = info.summary
    for label in path[:-1]:
        node = node[label]
        if isinstance(node, Mapping) and "_type" in node:
            return True
    return False


def run_name(info: RunInfo) -> str:
    return storable(info.name or info.run_id)[: Limits.installed().run_name]


URL = "wandb.url"
EXIT_CODE = "wandb.exit_code"
"""The tag with the exit code, which W&B's server does not tell."""
ARGUMENTS = "wandb.args"
ALERTS = "wandb.alerts"
"""The tag with the run's alerts, as a JSON list of their levels and titles."""
MACHINE_FACTS = ("host", "os", "python", "executable", "docker", "gpu", "gpu_count", "cuda")
"""Facts that a tag ``wandb.NAME`` has each."""
USER_FACTS = ("user", "email", "account", "owner")
"""Facts of which the first that is known is MLflow's user; MLflow itself takes the user of the
machine, who owns the log of a run."""
DESCRIPTION_TAGS = frozenset(
    (*EDITABLE_TAGS, URL, SWEEP_ID, STATE, EXIT_CODE, ARGUMENTS, identity.CONFIG_CHANGED,
     *(f"wandb.{name}" for name in MACHINE_FACTS))
)  # fmt: skip
"""Tags of this package that describe a run."""


def user_of(facts: Mapping[str, Any]) -> str:
    """Return whose run it is, as MLflow shows it; empty if nothing says so."""
    return str(next((facts[name] for name in USER_FACTS if facts.get(name)), ""))


def name_tag(info: RunInfo) -> dict[str, str]:
    """The tag with W&B's name of the run, as MLflow stores it; none for a run without a name."""
    name = storable(info.name)[: Limits.installed().tag_value]
    return {identity.NAME: name} if name else {}


def run_tags(info: RunInfo) -> dict[str, str]:
    """All tags that describe the run, not cut to MLflow's limit; identity tags are not included."""
    if info.mlflow is not None:
        ours = {NOTES_TAG: info.notes, identity.NAME: info.name, URL: info.url}
        return {**info.mlflow.tags, **{key: value for key, value in ours.items() if value}}
    facts = info.facts
    of_calls = tags_of_calls(info)
    copies = to_wandb.wandb_tags(of_calls, Secrets(SECRETS_SHOWN))
    info = replace(info, tags=tuple(tag for tag in info.tags if tag not in copies))
    tags = of_calls | {
        USER_TAG: user_of(facts),
        NOTES_TAG: info.notes,
        "mlflow.source.name": facts.get("program", ""),
        "mlflow.source.type": "LOCAL" if facts.get("program") else "",
        "mlflow.source.git.commit": facts.get("git_commit", ""),
        "mlflow.source.git.repoURL": without_credentials(facts.get("git_remote", "")),
        identity.NAME: info.name,
        URL: info.url,
        identity.GROUP: info.group,
        JOB_TYPE: info.job_type,
        SWEEP_ID: info.sweep_id,
        STATE: info.state if info.state != "running" else "",
        EXIT_CODE: "" if info.exit_code is None else str(info.exit_code),
        TAGS: json.dumps(list(info.tags), ensure_ascii=False) if info.tags else "",
    }
    for name in MACHINE_FACTS:
        tags[f"wandb.{name}"] = str(facts.get(name, ""))
    if facts.get("args"):
        tags[ARGUMENTS] = json.dumps(facts["args"], ensure_ascii=False)
    changed = changed_params(info)
    if changed:
        tags[identity.CONFIG_CHANGED] = str(changed)
    return {key: value for key, value in tags.items() if value}


def alerts(info: RunInfo) -> list[dict[str, str]]:
    """Return what the user said with `wandb.alert`: title, text and level of each."""
    told = info.facts.get("alerts")
    return [
        {name: str(one.get(name) or "") for name in ("title", "text", "level")}
        for one in (told if isinstance(told, (list, tuple)) else ())
        if isinstance(one, Mapping)
    ]


def alerts_tag(told: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the tag that lists alerts; none without any."""
    listed = [": ".join(filter(None, (one["level"], one["title"]))) for one in told]
    return {ALERTS: json.dumps(listed, ensure_ascii=False)} if listed else {}


def check_template(template: str) -> None:
    """Check the template of an experiment's name.

    Raises:
        UsageError: it has another placeholder than {entity} and {project}.
    """
    unknown = set(re.findall(r"\{([^{}]*)\}", template)) - {"entity", "project"}
    if unknown:
        raise UsageError(
            f"--experiment {template!r}: there is no {{{sorted(unknown)[0]}}}; "
            "the placeholders are {entity} and {project}"
        )


def experiment_name(template: str, entity: str, project: str) -> str:
    """Name of a project's experiment, with ``{entity}`` and ``{project}`` filled in."""
    name = template.replace("{entity}", entity).replace("{project}", project)
    return name[: Limits.installed().experiment_name]


def experiment_of(template: str, info: RunInfo) -> str:
    """Name of the experiment that a run goes into; one that was created in MLflow keeps its own."""
    project = info.project if info.mlflow is None else info.mlflow.experiment or info.project
    return experiment_name(template, info.entity, project)


def experiment_tags(entity: str, project: str) -> dict[str, str]:
    """Tags of a project's experiment; export-wandb-to-mlflow writes the same."""
    path = f"{entity}/{project}" if entity else project
    return {"migrate_from_wandb_project": path, "wandb_project_name": project}
