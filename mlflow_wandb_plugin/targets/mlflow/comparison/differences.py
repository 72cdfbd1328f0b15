"""Which differences between two descriptions of a run are there by design.

A run that was dual-written, or read from a local log, is described by the process that trained. The
same run on W&B's server is described by the server, with times of the server's clock and without
some facts.
"""

from __future__ import annotations

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.protocols import Difference

CLOCK_TOLERANCE_MS = 10_000
"""How much the clocks of a W&B server and of a training process may differ, with the time of
`wandb.init`."""

ONLY_LOCAL_TAGS = {
    "wandb.exit_code": "W&B's server does not tell the exit code",
}
"""Tags that only a local log gives a value."""
ONLY_SERVER_TAGS = {
    "wandb.url": "a run gets its URL when it is synced to W&B",
    identity.ENTITY: "a local log of an offline run does not name the entity",
}
"""Tags that only W&B's server gives a value."""


def tag_difference(key: str, wanted: str | None, found: str | None) -> Difference:
    """Describe a tag that differs; None means that the tag is absent."""
    what = f"tag {key} is {shown(found)}, not {shown(wanted)}"
    if key == identity.RUN_PATH and wanted and found:
        shorter, longer = sorted((wanted, found), key=len)
        if longer.endswith(f"/{shorter}"):
            return Difference(what, by_design=ONLY_SERVER_TAGS[identity.ENTITY])
    reasons = ONLY_LOCAL_TAGS | ONLY_SERVER_TAGS
    if key in reasons and (wanted is None or found is None):
        return Difference(what, by_design=reasons[key])
    return Difference(what)


def start_difference(
    info: RunInfo, found_ms: int | None, twin_from_server: bool
) -> Difference | None:
    """Compare the time at which a run started; None if it is as expected."""
    wanted = info.started_ms
    if wanted is None or found_ms == wanted:
        return None
    what = f"the run's start is {found_ms} ms, not {wanted} ms"
    if found_ms is not None and (from_server(info) or twin_from_server):
        started = info.facts.get("process_started_ms", wanted)
        if min(abs(found_ms - wanted), abs(found_ms - started)) <= CLOCK_TOLERANCE_MS:
            reason = "W&B's server records when it was first told of the run"
            return Difference(what, by_design=reason, fixable=False)
    return Difference(what, fixable=False)


def end_difference(
    info: RunInfo, wanted_ms: int | None, found_ms: int | None, twin_from_server: bool
) -> Difference | None:
    """Compare the time at which a run ended; None if it is as expected."""
    if wanted_ms is None or found_ms == wanted_ms:
        return None
    what = f"the run's end is {found_ms} ms, not {wanted_ms} ms"
    if found_ms is not None and (from_server(info) or twin_from_server):
        # W&B hears of a run until its end, or later if the run was offline.
        local, server = (wanted_ms, found_ms) if twin_from_server else (found_ms, wanted_ms)
        last_row = info.last_ms if info.last_ms is not None else info.started_ms or 0
        if last_row - CLOCK_TOLERANCE_MS <= local <= server + CLOCK_TOLERANCE_MS:
            return Difference(what, by_design="W&B's server records when it last heard of the run")
    return Difference(what)


def from_server(info: RunInfo) -> bool:
    """Whether W&B's server describes the run."""
    return info.segments == (identity.SERVER,)


def shown(value: str | None) -> str:
    """A tag or param in a message."""
    return "absent" if value is None else repr(value if len(value) <= 60 else value[:57] + "…")
