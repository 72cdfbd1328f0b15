"""One run, though several create it at once: MLflow has no "create if absent".

Whoever creates a run says so in a tag, looks for others, settles (takes the tag off), and looks
again. No clock is compared, for those who create may be on different machines:

- who finds another's run settled takes its own back;
- who has settled waits for rivals of a lower id to decide, and gives way to them.

Of two that settle, the later one sees the other at its second look, and both know whose id is
lower. The settled run of the lowest id never gives way: it is the one that stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin import identity
from mlflow_wandb_plugin.endpoints.mlflow_client import RefusedError

if TYPE_CHECKING:
    from mlflow.entities import Run

    from mlflow_wandb_plugin.endpoints.mlflow_client import Client

PENDING = "pending"
DECISION_S = 5.0
"""How long a rival may take to decide; after that it counts as settled: its creator is gone."""


def settle(client: Client, run: Run, alike: Callable[[], Sequence[Run]]) -> Run:
    """The run that stays, of ``run`` and those that others have created; ours is taken back if it
    is not the one.

    Args:
        run: ours, just created with the tag `identity.CLAIM` at `PENDING`.
        alike: asks MLflow for all that could stand for it, ours among them.
    """
    if not any(not is_pending(other) for other in _others(run, alike())):
        _settle(client, run)
        winner = _decided(alike)
        if winner is None or _id(winner) == _id(run):
            return run
    client.call(client.client.delete_run, run.info.run_id)
    return _decided(alike) or run


def standing(client: Client, alike: Callable[[], Sequence[Run]]) -> Run | None:
    """The run that stays, of those that exist; where one is just being created, once that is
    decided. One whose creator is gone is taken over."""
    winner = _decided(alike)
    if winner is not None and is_pending(winner):
        _settle(client, winner)
    return winner


def _settle(client: Client, run: Run) -> None:
    """Take the claim off; somebody else, or a try whose answer was lost, may have done so."""
    try:
        client.call(client.client.delete_tag, run.info.run_id, identity.CLAIM)
    except RefusedError as error:
        if error.code != "RESOURCE_DOES_NOT_EXIST":
            raise
    run.data.tags.pop(identity.CLAIM, None)


def first(runs: Sequence[Run]) -> Run | None:
    """The run that stays, of several that have been settled."""
    return min(runs, key=_id, default=None)


def is_pending(run: Run) -> bool:
    """Whether its creator may still take it back."""
    return bool(run.data.tags.get(identity.CLAIM) == PENDING)


def _decided(alike: Callable[[], Sequence[Run]]) -> Run | None:
    """The settled run of the lowest id, once no rival of a lower one can settle any more."""
    deadline = time.monotonic() + DECISION_S
    while True:
        found = alike()
        settled = first([run for run in found if not is_pending(run)])
        lower = [run for run in found if settled is None or _id(run) < _id(settled)]
        if not lower:
            return settled
        if time.monotonic() > deadline:
            return first(found)
        time.sleep(0.05)


def _others(run: Run, found: Sequence[Run]) -> list[Run]:
    return [other for other in found if _id(other) != _id(run)]


def _id(run: Any) -> str:
    return str(run.info.run_id)
