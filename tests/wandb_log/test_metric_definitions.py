"""What define_metric means; how it compares with wandb-core is test_steps' business."""

from __future__ import annotations

from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import MetricRecord

from mlflow_wandb_plugin.core.model import Key
from mlflow_wandb_plugin.wandb_log.metric_definitions import MetricDefinitions, split_escaped
from mlflow_wandb_plugin.wandb_log.summary import SummaryFold


def definition(name: str, step: str = "", sync: bool = False, **summary: bool) -> MetricRecord:
    record = MetricRecord(step_metric=step)
    if name.endswith("*"):
        record.glob_name = name
    else:
        record.name = name
    record.options.step_sync = sync
    for statistic, wanted in summary.items():
        setattr(record.summary, statistic, wanted)
    return record


def row_after(metrics: MetricDefinitions, row: dict[Key, str]) -> dict[Key, str]:
    metrics.observe(row)
    metrics.insert_steps(row)
    return row


@pytest.mark.parametrize(
    ("name", "path"),
    [("a", ("a",)), ("a.b", ("a", "b")), ("a\\.b", ("a.b",)), ("a\\.b.c", ("a.b", "c"))],
)
def test_dots_in_names(name: str, path: Key) -> None:
    """A dot nests, an escaped one does not."""
    assert split_escaped(name) == path


def test_a_step_metric_is_inserted_with_its_latest_value() -> None:
    """0 before it was ever logged; never over what the row itself holds."""
    metrics = MetricDefinitions(SummaryFold())
    metrics.define(definition("loss", step="epoch", sync=True))
    assert row_after(metrics, {("loss",): "1"}) == {("loss",): "1", ("epoch",): "0"}
    row_after(metrics, {("epoch",): "7"})
    assert row_after(metrics, {("loss",): "1"})[("epoch",)] == "7"
    assert row_after(metrics, {("loss",): "1", ("epoch",): "9"})[("epoch",)] == "9"
    assert row_after(metrics, {("other",): "1"}) == {("other",): "1"}


def test_a_step_metric_replaces_a_tree() -> None:
    """Inserted as a number it replaces a tree of its name, as in wandb-core."""
    metrics = MetricDefinitions(SummaryFold())
    metrics.define(definition("loss", step="epoch", sync=True))
    row = row_after(metrics, {("loss",): "1", ("epoch", "u"): "5"})
    assert row == {("loss",): "1", ("epoch",): "0"}


def test_only_what_is_synced_is_inserted() -> None:
    """`step_sync=False` leaves rows as they are."""
    metrics = MetricDefinitions(SummaryFold())
    metrics.define(definition("loss", step="epoch"))
    assert row_after(metrics, {("loss",): "1"}) == {("loss",): "1"}


def test_a_glob_defines_what_it_matches() -> None:
    """Keys are defined at their first row, W&B's own never; an exact name takes precedence."""
    summary = SummaryFold()
    metrics = MetricDefinitions(summary)
    metrics.define(definition("val/*", max=True))
    metrics.define(definition("val/exact", min=True))
    metrics.define(definition("_*", none=True))
    for key in ("val/a", "val/exact", "_internal", "valid"):
        metrics.match_glob((key,))
        summary.numbers((key,), [1.0, 2.0])
    assert summary.tree() == {
        "val/a": {"max": 2.0}, "val/exact": {"min": 1.0}, "_internal": 2.0, "valid": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize("overwrite", [False, True])
def test_definitions_add_up_unless_they_overwrite(overwrite: bool) -> None:
    """The second record of a name extends the first."""
    summary = SummaryFold()
    metrics = MetricDefinitions(summary)
    metrics.define(definition("a", max=True))
    second: Any = definition("a", min=True)
    second._control.overwrite = overwrite
    metrics.define(second)
    summary.numbers(("a",), [1.0, 2.0])
    assert summary.tree()["a"] == ({"min": 1.0} if overwrite else {"max": 2.0, "min": 1.0})
