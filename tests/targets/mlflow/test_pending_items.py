"""Params and tags that are logged together."""

from __future__ import annotations

from mlflow.entities import Param, RunTag

from mlflow_wandb_plugin.targets.mlflow.client import PendingItems


def test_items_fit_into_batches() -> None:
    """A batch has at most 100 params and 100 tags, and the last one has the last tags."""
    pending = PendingItems()
    pending.add("r", [Param(f"p{n}", "") for n in range(250)], [RunTag("t", "old")])
    pending.add("r", [], [RunTag(f"t{n}", "") for n in range(120)])
    pending.add("r", [], [RunTag("t", "new")])
    batches = list(pending.batches())
    assert [(len(params), len(tags)) for _, params, tags in batches] == [
        (100, 0), (100, 0), (0, 100), (50, 21),
    ]  # fmt: skip
    last = batches[-1][2][-1]
    assert (last.key, last.value) == ("t", "new")
    assert list(PendingItems().batches()) == []
