"""Creates one run although several processes create it at once: MLflow cannot create "if absent".

Each creator marks its run as pending, by a tag, and looks for other runs that stand for the same
W&B run. It removes the tag when it sees none: its run is settled. Creators may be on different
machines, so no clocks are compared:

- a creator that sees a settled run, or a pending one with a lower id, deletes its own;
- one that sees only pending runs with higher ids waits until they are gone or one is settled.

A creator that comes after the last look of another sees that one's run, and deletes its own run or
waits: only one run is settled. If a run stays pending for too long, its creator is gone: the run
is kept, and settled by whoever waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.errors import TargetUnavailableError
from mlflow_wandb_plugin.targets.mlflow.run_client import NewRun

if TYPE_CHECKING:
    from mlflow.entities import Run

    from mlflow_wandb_plugin.targets.mlflow.client import Client

PENDING = "pending"
DECISION_S = 5.0
"""How long a run may be pending before its creator counts as gone."""
TRIES = 10


def create_once(
    client: Client, new: NewRun, search: Callable[[], Sequence[Run]]
) -> tuple[Run, bool]:
    """Create a run, unless another process creates it at the same time; return the run and whether
    it was created here.

    Args:
        search: asks MLflow for all runs that stand for the same W&B run.

    Raises:
        TargetUnavailableError: all creators deleted their runs, again and again.
    """
    pending = replace(new, tags={**new.tags, identity.CLAIM: PENDING})
    for _ in range(TRIES):
        run = client.call(client.client.create_run, pending)
        kept = keep_one(client, run, search)
        if kept is not None:
            return kept, kept.info.run_id == run.info.run_id
    raise TargetUnavailableError(f"MLflow: others create the run {new.name!r} at once; try again")


def keep_one(client: Client, run: Run, search: Callable[[], Sequence[Run]]) -> Run | None:
    """Settle the pending ``run``, which was just created and which ``search`` finds, or another
    one; delete ``run`` if it is another.

    Returns:
        The settled run; None if all creators have deleted theirs.
    """
    deadline = time.monotonic() + DECISION_S
    while True:
        others = [other for other in search() if _id(other) != _id(run)]
        if not others:
            _settle(client, run)
            return run
        must_delete = any(not is_pending(other) or _id(other) < _id(run) for other in others)
        if must_delete or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    client.call(client.mlflow.delete_run, run.info.run_id)
    return find_settled(client, search)


def find_settled(client: Client, search: Callable[[], Sequence[Run]]) -> Run | None:
    """The settled run of those found; waits while all of them are pending, at most `DECISION_S`,
    then settles one."""
    deadline = time.monotonic() + DECISION_S
    while True:
        found = search()
        settled = min((run for run in found if not is_pending(run)), key=_id, default=None)
        if settled is not None or not found:
            return settled
        if time.monotonic() > deadline:
            first = min(found, key=_id)
            _settle(client, first)
            return first
        time.sleep(0.05)


def _settle(client: Client, run: Run) -> None:
    for claim in identity.all_names(identity.CLAIM):
        if claim in run.data.tags:
            client.delete_tag(run.info.run_id, claim)
            run.data.tags.pop(claim, None)


def is_pending(run: Run) -> bool:
    """Whether the run's creator may still delete it."""
    return bool(identity.present_tags(run.data.tags).get(identity.CLAIM) == PENDING)


def _id(run: Any) -> str:
    return str(run.info.run_id)
