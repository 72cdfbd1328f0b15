"""When a run started, by the clocks of W&B's server and of the training process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.mapping import to_mlflow
from mlflow_wandb_plugin.mapping.system_metrics import PREFIX as SYSTEM_PREFIX
from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.targets.mlflow.client import Client

if TYPE_CHECKING:
    from mlflow.entities import Run

CLOCK_TOLERANCE_MS = 10_000
"""How much the clocks of a W&B server and of a training process may differ, with the time of
`wandb.init`."""


def two_clocks(info: RunInfo, tags: Mapping[str, str]) -> bool:
    """Whether one of the run and its replica with ``tags`` is described by W&B's server, and the
    other by the process that trained."""
    return written_by_training(tags) if from_server(info) else written_from_server(tags)


def decided_tags(info: RunInfo, tags: Mapping[str, str]) -> set[str]:
    """Return the keys among ``tags`` of a replica that the description of ``info`` decides: one
    that it does not give a value to is not to be there.

    What one description of two does not know, or a log that is not among those of ``info``, is
    not decided. Neither are tags of the user's.
    """
    logs = {log.removeprefix("journal:") for log in identity.read_numbers(tags, identity.POSITION)}
    if not from_server(info) and logs - {identity.SERVER, *info.segments}:
        return set()
    if not from_server(info):
        # The server names a run, and gives it its address.
        tags = {key: tags[key] for key in tags if key not in (identity.NAME, to_mlflow.URL)}
    never = {identity.SWEEP, identity.PARENT_GROUP}
    decided = {*to_mlflow.DESCRIPTION_TAGS, *never}
    if two_clocks(info, tags):
        editable = to_mlflow.EDITABLE_TAGS if from_server(info) else ()
        decided = {to_mlflow.SWEEP_ID, *never, *editable}
    return decided & tags.keys()


def written_from_server(tags: Mapping[str, str]) -> bool:
    """Whether the replica with ``tags`` was written from W&B's server, perhaps after a log. Without
    a history row there is no position."""
    position = identity.read_numbers(tags, identity.POSITION)
    return identity.SERVER in position or not written_by_training(tags)


def written_by_training(tags: Mapping[str, str]) -> bool:
    """Whether the replica with ``tags`` was first written from what the training process logged,
    which a repair from W&B's server does not undo: only such a log tells the exit code."""
    logs = identity.read_numbers(tags, identity.POSITION).keys() - {identity.SERVER}
    return bool(logs) or tags.get(identity.ORIGIN) == "dual" or to_mlflow.EXIT_CODE in tags


def from_server(info: RunInfo) -> bool:
    """Whether W&B's server describes the run."""
    return info.segments == (identity.SERVER,)


def is_start(info: RunInfo, start_ms: int | None, tags: Mapping[str, str]) -> bool:
    """Whether ``start_ms``, the start of the replica with ``tags``, is that of the W&B run."""
    started_ms = to_mlflow.run_time(info.started_ms)
    if start_ms is None or started_ms is None or not two_clocks(info, tags):
        return start_ms == started_ms
    known = (started_ms, info.facts.get("process_started_ms", started_ms))
    return any(abs(start_ms - one) <= CLOCK_TOLERANCE_MS for one in known)


def seconds_from(client: Client, run: Run, info: RunInfo, tags: Mapping[str, str]) -> int:
    """Return the Unix ms from which the steps of system metrics are counted: the start of the
    replica ``run``, so that writing again gives the same steps. If somebody has moved it, its
    system metrics tell where it was."""
    start_ms, started_ms = run.info.start_time, to_mlflow.run_time(info.started_ms)
    if started_ms is None or is_start(info, start_ms, tags):
        return start_ms or 0
    names = [name for name in run.data.metrics if name.startswith(SYSTEM_PREFIX)]

    def read() -> list[Points]:
        blocks = client.client.points(run.info.run_id, names) if names else ()
        return [points for points in blocks if points.name in names]

    return counted_from(started_ms, client.call(read))


def counted_from(started_ms: int, system_points: Iterable[Points]) -> int:
    """Return the Unix ms nearest to ``started_ms`` from which whole seconds give the steps of all
    ``system_points``; ``started_ms`` if there is none: another tool counted some of them."""
    after, until = float("-inf"), float("inf")
    for points in system_points:
        for at, step in zip(points.timestamps_ms, points.steps, strict=True):
            after = max(after, at - 1000 * (step + 1))
            # A point before the start has step 0, too.
            until = min(until, at - 1000 * step) if step else until
    return int(min(max(started_ms, after + 1), until)) if after < until else started_ms
