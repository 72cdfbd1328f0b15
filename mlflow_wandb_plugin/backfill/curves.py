"""Curves with few points of the series that a backfill carries, for its report."""

from __future__ import annotations

import math
import sys
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlflow_wandb_plugin.core.model import INT64, Item, Key, Series

CURVES_A_RUN = 3
POINTS_A_CURVE = 100


@dataclass(slots=True)
class Curve:
    """A part of a series: every n-th point in the order in which they were logged; n doubles
    whenever there are too many.

    Attributes:
        steps, values: of the points that are kept.
        stride: n.
        count: number of points of the whole series.
        last_step, last: its last point.
    """

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    stride: int = 1
    count: int = 0
    last_step: int = 0
    last: float = math.nan

    def add(self, steps: Iterable[int], values: Iterable[float]) -> None:
        """Add the points that follow."""
        for step, value in zip(steps, values, strict=True):
            self.last_step, self.last = max(-INT64, min(step, INT64 - 1)), float(value)
            if self.count % self.stride == 0:
                self.steps.append(self.last_step)
                self.values.append(self.last)
                if len(self.steps) > 2 * POINTS_A_CURVE:
                    self.steps, self.values = self.steps[::2], self.values[::2]
                    self.stride *= 2
            self.count += 1


@dataclass(frozen=True, slots=True)
class Pair:
    """A curve of the source and what the target has of it.

    Attributes:
        equal: whether the values are the same, as far as both are known.
        same_steps: whether the points have the same steps, too.
    """

    source: Curve
    target: Curve
    equal: bool
    same_steps: bool


def compared(source: Curve, points: Sequence[tuple[int, float]]) -> Pair:
    """Compare a curve with all points that the target has, in the order in which they were logged.

    A run that was filled has more points in the target than were read: the last ones are compared.
    """
    target = Curve()
    target.add((step for step, _ in points), (value for _, value in points))
    offset = len(points) - source.count
    equal = same_steps = offset >= 0
    for number, (step, value) in enumerate(zip(source.steps, source.values, strict=True)):
        at = offset + number * source.stride
        if not 0 <= at < len(points):
            break
        there = points[at]
        same_steps = same_steps and there[0] == step
        equal = equal and _same(there[1], value)
    return Pair(source, target, equal, same_steps)


def _same(one: float, other: float) -> bool:
    """Whether two values are the same; MLflow's databases keep infinity as the largest double."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return _finite(one) == _finite(other)


def _finite(value: float) -> float:
    return max(-sys.float_info.max, min(value, sys.float_info.max))


class Curves:
    """Keeps a few points of the first few keys of each run."""

    def __init__(self) -> None:
        self._curves: dict[str, dict[Key, Curve]] = {}
        self._lock = threading.Lock()

    def watch(self, run_id: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield ``items``, and keep points of their series."""
        with self._lock:
            curves = self._curves.setdefault(run_id, {})
        for item in items:
            if isinstance(item, Series) and item.kind == "history":
                if item.key not in curves and len(curves) < CURVES_A_RUN:
                    curves[item.key] = Curve()
                if item.key in curves:
                    curves[item.key].add(item.steps, item.values)
            yield item

    def add(self, run_id: str, curves: Mapping[Key, Curve]) -> None:
        """Add the curves of a run that another process carried."""
        with self._lock:
            self._curves[run_id] = dict(curves)

    def of(self, run_id: str) -> dict[Key, Curve]:
        """Return the curves of a run by key."""
        return dict(self._curves.get(run_id, {}))
