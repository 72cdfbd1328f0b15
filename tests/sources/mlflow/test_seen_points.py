"""Points of a mirrored run that repeat an earlier one exactly are left out, as in MLflow."""

from __future__ import annotations

import contextlib
import math

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from mlflow_wandb_plugin.mapping.to_wandb import drops_repeats
from mlflow_wandb_plugin.sources.mlflow.seen_points import SeenPoints

POINTS = [
    ("a", 1.0, 10, 0), ("a", 2.0, 10, 1), ("a", 2.0, 10, 1), ("a", 3.0, 10, 1), ("a", 1.0, 10, 0),
    ("b", 1.0, 10, 0), ("a", 2.0, 11, 1), ("a", 2.0, 10, 2), ("a", 5.0, 9, -4), ("a", 5.0, 9, -4),
    ("n", math.nan, 10, 0), ("n", math.nan, 10, 0), ("n", 0.0, 10, 0), ("n", -0.0, 10, 0),
    ("i", math.inf, 10, 0), ("i", math.inf, 10, 0), ("i", -math.inf, 10, 0),
    ("a", 2.0, 10, 2), ("a", 9.0, 99, 99),
]  # fmt: skip


def test_what_is_left_is_what_mlflow_keeps(fresh_store: str) -> None:
    """The same points, logged one by one to MLflow's tables."""
    client = MlflowClient(fresh_store)
    run_id = client.create_run("0").info.run_id
    for key, value, timestamp, step in POINTS:
        # MLflow 3.1 refuses a repeat of NaN, which newer versions ignore.
        with contextlib.suppress(MlflowException):
            client.log_batch(run_id, [Metric(key, value, timestamp, step)])
    kept = SeenPoints().new(POINTS)
    for key in "abni":
        history = client.get_metric_history(run_id, key)
        there = sorted((each.step, each.timestamp) for each in history)
        assert sorted((step, at) for name, _, at, step in kept if name == key) == there
    assert len(kept) == 12


def test_a_long_run_that_rises_needs_no_set() -> None:
    """Points without repeats take 24 bytes each; a late repeat is found all the same."""
    seen = SeenPoints()
    points = [("a", float(i), 1000 + i, i) for i in range(5000)]
    assert len(seen.new(points)) == 5000
    assert seen._by_key["a"]._all is None
    assert seen.new([points[17]]) == []


@pytest.mark.parametrize(
    ("uri", "drops"),
    [("sqlite:///x.db", True), ("http://h", True), ("file:///x", False), ("/x/mlruns", False)],
)
def test_mlflows_folders_keep_repeats(uri: str, drops: bool) -> None:
    """Their files get a line for each point."""
    assert drops_repeats(uri) is drops
