"""Params and tags that are logged in as few batches as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from mlflow_wandb_plugin.mapping.names import Limits

if TYPE_CHECKING:
    from mlflow.entities import Param, RunTag

T = TypeVar("T")


class PendingItems:
    """Params and tags that wait, by run; of tags with one key, only the last."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[dict[str, Param], dict[str, RunTag]]] = {}

    def add(self, run_id: str, params: Sequence[Param], tags: Sequence[RunTag]) -> None:
        """Add params and tags of a run."""
        own_params, own_tags = self._items.setdefault(run_id, ({}, {}))
        own_params.update((param.key, param) for param in params)
        for tag in tags:
            own_tags.pop(tag.key, None)
            own_tags[tag.key] = tag

    def batches(self) -> Iterator[tuple[str, list[Param], list[RunTag]]]:
        """Batches of a run each, within MLflow's limits; the last one has the last tags."""
        size = Limits.installed().batch_params
        for run_id, (params, tags) in self._items.items():
            some_params = _parts(list(params.values()), size)
            some_tags = _parts(list(tags.values()), size)
            for part in some_params[:-1]:
                yield run_id, part, []
            for rest in some_tags[:-1]:
                yield run_id, [], rest
            if params or tags:
                yield run_id, some_params[-1], some_tags[-1]


def _parts(items: list[T], size: int) -> list[list[T]]:
    """Split a list; at least one part, which may be empty."""
    return [items[start : start + size] for start in range(0, len(items), size)] or [[]]
