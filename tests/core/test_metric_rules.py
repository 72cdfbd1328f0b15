"""Rules of plugins for metrics."""

from __future__ import annotations

from mlflow_wandb_plugin.core.metric_rules import UNCHANGED, MetricRule, MetricRules
from mlflow_wandb_plugin.core.model import Key, RunInfo


def test_a_value_is_scaled_and_moved() -> None:
    """Factor first, then offset; without them the values stay the same object."""
    values = [0.5, -1.0]
    assert MetricRule(factor=100, offset=1).written(values) == [51.0, -99.0]
    assert UNCHANGED.written(values) is values


def test_each_key_is_asked_for_once() -> None:
    """A plugin is asked for a key once a run, and its answer is counted."""
    asked: list[Key] = []

    def map_metric(run: RunInfo, key: Key) -> MetricRule | None:
        asked.append(key)
        return {("a",): MetricRule(name="b"), ("c",): MetricRule(drop=True)}.get(key)

    rules = MetricRules(map_metric, RunInfo("r", "p"))
    for key in (("a",), ("c",), ("d",), ("a",)):
        rules.of(key)
    assert asked == [("a",), ("c",), ("d",)]
    assert rules.counts() == {"metric_rule": 1, "metric_dropped": 1}


def test_a_statistic_of_the_summary_follows_its_key() -> None:
    """``loss.min`` is renamed, scaled and dropped with it, unless it has its own rule."""

    def map_metric(run: RunInfo, key: Key) -> MetricRule | None:
        if key == ("loss",):
            return MetricRule(name="train/loss", factor=2)
        return MetricRule(drop=True) if key == ("loss", "max") else None

    rules = MetricRules(map_metric, RunInfo("r", "p"))
    assert rules.of_summary(("loss", "min")) == MetricRule(name="train/loss.min", factor=2)
    assert rules.of_summary(("loss", "max")).drop
    assert rules.of_summary(("other", "min")) == UNCHANGED


def test_a_rule_changes_only_what_it_names() -> None:
    """A factor alone moves nothing, an offset alone scales nothing, a name alone does neither."""
    values = [0.5, -1.0]
    assert MetricRule(factor=2).written(values) == [1.0, -2.0]
    assert MetricRule(offset=2).written(values) == [2.5, 1.0]
    assert MetricRule(factor=0).written(values) == [0.0, 0.0]
    assert MetricRule(factor=2, offset=-1).written(values) == [0.0, -3.0]
    assert MetricRule(name="b").written(values) is values
    assert MetricRule("", 1.0, 0.0, False) == UNCHANGED


def test_a_key_of_one_part_is_no_statistic() -> None:
    """A summary's leaf without a rule is looked up below its key, not below all keys' root."""
    asked: list[Key] = []

    def map_metric(run: RunInfo, key: Key) -> MetricRule | None:
        asked.append(key)
        return MetricRule(factor=2) if key in ((), ("a", "b")) else None

    rules = MetricRules(map_metric, RunInfo("r", "p"))
    assert rules.of_summary(("loss",)) == UNCHANGED
    assert asked == [("loss",)]
    assert rules.of_summary(("a", "b", "min")) == MetricRule(factor=2)
    assert rules.counts() == {"metric_rule": 1, "metric_dropped": 0}
