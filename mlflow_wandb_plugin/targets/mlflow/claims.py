"""One run, though several create it at once: MLflow has no "create if absent".

Whoever creates a run says so in a tag, looks for others, and settles (takes the tag off) once it
sees none. No clock is compared, for those who create may be on different machines:

- who sees a settled run, or a rival of a lower id, takes its own back;
- who sees rivals of higher ids only waits until they are gone, or one of them has settled.

Whoever comes after the last look of one that settles sees it, and gives way or waits for it: only
one settles. A rival that takes too long is gone: its run is the one that stays, and is taken over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core import identity

if TYPE_CHECKING:
    from mlflow.entities import Run

    from mlflow_wandb_plugin.targets.mlflow.client import Client

PENDING = "pending"
DECISION_S = 5.0
"""How long a rival may take to decide; after that its creator counts as gone."""


def settle(client: Client, run: Run, alike: Callable[[], Sequence[Run]]) -> Run | None:
    """The run that stays, of ``run`` and those that others have created; ours is taken back if it
    is not the one.

    Args:
        run: ours, just created with the tag `identity.CLAIM` at `PENDING`.
        alike: asks MLflow for all that could stand for it, ours among them.

    Returns:
        None if none stays: all have given way to others that did, and must begin again.
    """
    deadline = time.monotonic() + DECISION_S
    while True:
        others = [other for other in alike() if _id(other) != _id(run)]
        if not others:
            _settle(client, run)
            return run
        given = any(not is_pending(other) or _id(other) < _id(run) for other in others)
        if given or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    client.call(client.client.delete_run, run.info.run_id)
    return standing(client, alike)


def standing(client: Client, alike: Callable[[], Sequence[Run]]) -> Run | None:
    """The run that stays, of those that exist; where one is just being created, once that is
    decided. One whose creator is gone is taken over."""
    deadline = time.monotonic() + DECISION_S
    while True:
        found = alike()
        settled = min((run for run in found if not is_pending(run)), key=_id, default=None)
        if settled is not None or not found:
            return settled
        if time.monotonic() > deadline:
            gone = min(found, key=_id)
            _settle(client, gone)
            return gone
        time.sleep(0.05)


def _settle(client: Client, run: Run) -> None:
    client.delete_tag(run.info.run_id, identity.CLAIM)
    run.data.tags.pop(identity.CLAIM, None)


def is_pending(run: Run) -> bool:
    """Whether its creator may still take it back."""
    return bool(run.data.tags.get(identity.CLAIM) == PENDING)


def _id(run: Any) -> str:
    return str(run.info.run_id)
