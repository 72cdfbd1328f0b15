"""Which differences between two descriptions of a run are there by design.

A run that was dual-written, or read from a local log, is described by the process that trained. The
same run on W&B's server is described by the server, with times of the server's clock and without
some facts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.mlflow_terms import NAME_TAG, PARENT_TAG, USER_TAG
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.protocols import Difference
from mlflow_wandb_plugin.core.server_values import is_kept_as
from mlflow_wandb_plugin.mapping import to_mlflow
from mlflow_wandb_plugin.targets.mlflow.run_start import (
    CLOCK_TOLERANCE_MS,
    from_server,
    is_start,
    two_clocks,
    written_by_training,
    written_from_server,
)

ONLY_SERVER_TAGS = {
    to_mlflow.URL: "a run gets its URL when it is synced to W&B",
    identity.ENTITY: "a local log of an offline run does not name the entity",
}
"""Tags that only W&B's server gives a value."""
ONLY_LOG_TAGS = {
    to_mlflow.EXIT_CODE: "W&B's server does not tell the exit code",
    to_mlflow.ALERTS: "W&B's server does not tell the alerts",
}
"""Tags that only a local log gives a value."""
NO_ACCOUNT = "a local log does not name the W&B account"
NO_HISTORY_OF_CONFIG = "W&B's server knows only the last value of a config key that has changed"
NOT_KEPT = "W&B's server keeps no empty object, and large integers as floats"
NO_VERSION = "a local log does not know the version of an artifact"


def name_difference(wanted: str | None, found: str, tags: Mapping[str, str]) -> Difference | None:
    """Compare the run's name; None if it is as expected. A run that its user has renamed in MLflow,
    which changes the name and a tag, keeps that name."""
    if wanted is None or found == wanted:
        return None
    what = f"the run's name is {found!r}, not {wanted!r}"
    if tags.get(NAME_TAG) == found:
        return Difference(what, by_design="the run was renamed in MLflow", fixable=False)
    return Difference(what)


def tag_difference(
    info: RunInfo, key: str, wanted: str | None, tags: Mapping[str, str]
) -> Difference:
    """Describe a tag that a replica with ``tags`` has another value of than the one that is wanted;
    None means that the tag is to be absent."""
    found = tags.get(key)
    what = f"tag {key} is {shown(found)}, not {shown(wanted)}"
    return Difference(what, by_design=_reason_of_tag(info, key, wanted, tags))


def parent_difference(info: RunInfo, found: str | None) -> Difference:
    """Describe the tag of a parent run that is not the one of the run's sweep, group or config."""
    wanted = info.config.get(identity.PARENT_RUN_KEY)
    of = f"of sweep {info.sweep_id}" if info.sweep_id else "of its group"
    what = shown(str(wanted)) if wanted else f"the run {of}"
    return Difference(f"tag {PARENT_TAG} is {shown(found)}, not {what}")


def _reason_of_tag(info: RunInfo, key: str, wanted: str | None, tags: Mapping[str, str]) -> str:
    found = tags.get(key)
    if key == USER_TAG and two_clocks(info, tags):
        of_one = info.facts.get("account" if from_server(info) else "owner")
        return NO_ACCOUNT if wanted == of_one else ""
    if found is not None or not two_clocks(info, tags):
        return ""
    if not from_server(info):
        return ONLY_LOG_TAGS.get(key, "")
    if written_from_server(tags):
        return ""
    return ONLY_SERVER_TAGS.get(key, "")


def param_differences(
    info: RunInfo, tags: Mapping[str, str], different: Mapping[str, tuple[str | None, str]]
) -> list[Difference]:
    """Describe params that differ, given as (found, wanted) by name.

    The replica of a run whose config has changed keeps the first values, which W&B's server does
    not know: as many as its tag counts may differ from the last ones.
    """
    changed = tags.get(identity.CONFIG_CHANGED, "")
    others = [name for name, (found, _) in different.items() if found is not None]
    known = from_server(info) and written_by_training(tags) and changed.isdecimal()
    by_design = NO_HISTORY_OF_CONFIG if known and len(others) <= int(changed) else ""
    two = two_clocks(info, tags)
    differences = []
    for name, (found, wanted) in different.items():
        if two and _is_kept_param(info, found, wanted):
            reason = NOT_KEPT
        else:
            reason = "" if found is None else by_design
        what = f"param {name} is {shown(found)}, not {shown(wanted)}"
        differences.append(Difference(what, by_design=reason, fixable=found is None))
    return differences


def _is_kept_param(info: RunInfo, found: str | None, wanted: str) -> bool:
    """Whether one of two params is what W&B's server keeps of the other, which was logged."""
    logged, kept = (found, wanted) if from_server(info) else (wanted, found)
    if kept is None:
        return logged == to_mlflow.param_value({})
    return logged is not None and is_kept_as(_number(logged), _number(kept))


def _number(text: str) -> Any:
    """The number that a param's text is; else the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def start_difference(
    info: RunInfo, found_ms: int | None, tags: Mapping[str, str]
) -> Difference | None:
    """Compare the time at which the replica with ``tags`` started; None if it is as expected."""
    wanted = to_mlflow.run_time(info.started_ms)
    if wanted is None or found_ms == wanted:
        return None
    # MLflow knows no run without a start; a database may have one.
    what = f"the run's start is {found_ms or None} ms, not {wanted} ms"
    reason = "W&B's server records when it was first told of the run"
    by_design = reason if is_start(info, found_ms, tags) else ""
    return Difference(what, by_design, fixable=False)


def end_difference(
    info: RunInfo, wanted_ms: int | None, found_ms: int | None, tags: Mapping[str, str]
) -> Difference | None:
    """Compare the time at which the replica with ``tags`` ended; None if it is as expected."""
    if wanted_ms is None or found_ms == wanted_ms:
        return None
    what = f"the run's end is {found_ms} ms, not {wanted_ms} ms"
    if found_ms is not None and two_clocks(info, tags):
        # W&B hears of a run until its end, or later if the run was offline.
        local, server = (found_ms, wanted_ms) if from_server(info) else (wanted_ms, found_ms)
        last_row = info.last_ms if info.last_ms is not None else info.started_ms or 0
        if last_row - CLOCK_TOLERANCE_MS <= local <= server + CLOCK_TOLERANCE_MS:
            return Difference(what, by_design="W&B's server records when it last heard of the run")
    return Difference(what)


def shown(value: str | None) -> str:
    """A tag or param in a message."""
    return "absent" if value is None else repr(value if len(value) <= 60 else value[:57] + "…")
