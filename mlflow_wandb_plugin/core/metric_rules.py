"""Rules of plugins for how a W&B key is written to MLflow; see `hookspecs.map_metric`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from mlflow_wandb_plugin.core.model import Key, RunInfo


class MetricRule(NamedTuple):
    """How the points of one key are written.

    Attributes:
        name: the metric's name in MLflow; empty for that which the key has without a rule.
        factor, offset: a value is written as ``value * factor + offset``.
        drop: no point is written.
    """

    name: str = ""
    factor: float = 1.0
    offset: float = 0.0
    drop: bool = False

    def written(self, values: Sequence[float]) -> Sequence[float]:
        """Return what is written for ``values``."""
        if (self.factor, self.offset) == (1.0, 0.0):
            return values
        return [value * self.factor + self.offset for value in values]

    def of_statistic(self, label: str) -> MetricRule:
        """Return the rule for a statistic of the key, such as ``min``, in a summary."""
        return self._replace(name=f"{self.name}.{label}" if self.name else "")


MapMetric: TypeAlias = Callable[[RunInfo, Key], "MetricRule | None"]
UNCHANGED = MetricRule()


def without_rules(run: RunInfo, key: Key) -> None:
    """A `MapMetric` that changes nothing."""


class MetricRules:
    """The rules for the keys of one run; each key is asked for once.

    Args:
        map_metric: the rule of a key, if it has one.
        run: as it was known when the run was opened.
    """

    def __init__(self, map_metric: MapMetric, run: RunInfo) -> None:
        self._map_metric = map_metric
        self._run = run
        self._known: dict[Key, MetricRule] = {}

    def of(self, key: Key) -> MetricRule:
        """Return the rule of a key; `UNCHANGED` if it has none."""
        if key not in self._known:
            self._known[key] = self._map_metric(self._run, key) or UNCHANGED
        return self._known[key]

    def of_summary(self, key: Key) -> MetricRule:
        """Return the rule of a summary's leaf: its own, or that of the key of which it is a
        statistic."""
        rule = self.of(key)
        if rule == UNCHANGED and len(key) > 1:
            return self.of(key[:-1]).of_statistic(key[-1])
        return rule

    def counts(self) -> dict[str, int]:
        """Return the number of keys that were changed, and that were dropped."""
        rules = self._known.values()
        changed = sum(rule != UNCHANGED and not rule.drop for rule in rules)
        return {"metric_rule": changed, "metric_dropped": sum(rule.drop for rule in rules)}
