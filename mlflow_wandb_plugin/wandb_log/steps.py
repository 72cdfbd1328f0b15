"""Assemble history rows from partial history requests, with W&B's rules for steps.

The rules are those of wandb-core's handler: a call without ``step`` ends its row unless
``commit=False``; a call with ``step`` only merges into the row of that step unless
``commit=True``; a larger step ends the row before it; a smaller one is ignored, with W&B's own
warning; ``log({})`` also makes a row, because it has a timestamp.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from mlflow_wandb_plugin.core.model import Key, set_leaf

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import PartialHistoryRequest

    from mlflow_wandb_plugin.wandb_log.metric_definitions import MetricDefinitions


class Row(NamedTuple):
    """A finished history row. Values are JSON texts as W&B wrote them, with NaN and Infinity."""

    step: int
    values: dict[Key, str]


class StepMachine:
    """Assembles rows for one run.

    Attributes:
        step: of the pending row.
        shared: whether W&B's server assigns the steps, so that those of requests are ignored.
    """

    def __init__(self, metrics: MetricDefinitions) -> None:
        self.step = 0
        self.shared = False
        self._metrics = metrics
        self._pending: dict[Key, str] = {}
        self._nested = False

    def add(self, request: PartialHistoryRequest) -> Iterator[Row]:
        """Add one ``log()`` call; yield the rows that it ends, at most two."""
        has_step = request.HasField("step") and not self.shared
        if has_step:
            step = request.step.num
            if step > self.step:
                yield from self.flush(step)
            elif step < self.step:
                return
        for item in request.item:
            path = tuple(item.nested_key) or (item.key,)
            if path == ("",):
                # wandb-core leaves the empty key out of its rows.
                continue
            text = item.value_json or typed_json(item)
            if text.startswith("{"):
                self._set_tree(path, json.loads(text))
            else:
                self._set(path, text)
        if request.action.flush if request.HasField("action") else not has_step:
            yield from self.flush(self.step + 1)

    def flush(self, next_step: int | None = None) -> Iterator[Row]:
        """End the pending row, as the run's exit does, and continue at ``next_step``."""
        step, self.step = self.step, self.step + 1 if next_step is None else next_step
        if self._pending:
            values, self._pending, self._nested = self._pending, {}, False
            self._metrics.observe(values)
            self._metrics.insert_steps(values)
            yield Row(step, values)

    def drop_pending(self) -> None:
        """Drop the pending row."""
        self._pending, self._nested = {}, False

    def _set_tree(self, path: Key, tree: object) -> None:
        if isinstance(tree, dict):
            for label, value in tree.items():
                self._set_tree((*path, label), value)
        else:
            self._set(path, json.dumps(tree))

    def _set(self, path: Key, text: str) -> None:
        if len(path) > 1 or self._nested:
            self._nested = True
            set_leaf(self._pending, path, text)
        else:
            self._pending[path] = text


def typed_json(item: object) -> str:
    """Return the JSON text of a history item that has only wandb 0.31's typed value."""
    kind = item.WhichOneof("value") if hasattr(item, "WhichOneof") else None
    if kind is None or kind == "none":
        return "null"
    value = getattr(item, kind)
    return str(value) if kind == "json" else json.dumps(value)
