"""Curves with few points of the series that a backfill carries, for its report."""

from __future__ import annotations

import math
import sys
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mlflow_wandb_plugin.core.model import INT64, Item, Key, Series

CURVES_A_RUN = 3
POINTS_A_CURVE = 60


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

    def add(self, steps: Sequence[int], values: Sequence[float]) -> None:
        """Add the points that follow."""
        done, total = 0, len(values)
        while done < total:
            # No more of them than may be kept before n doubles.
            end = min(total, done + (2 * POINTS_A_CURVE + 1 - len(self.steps)) * self.stride)
            first = done + -self.count % self.stride
            self.steps.extend(map(_in_64_bits, steps[first : end : self.stride]))
            self.values.extend(map(float, values[first : end : self.stride]))
            self.count += end - done
            done = end
            if len(self.steps) > 2 * POINTS_A_CURVE:
                self.steps, self.values = self.steps[::2], self.values[::2]
                self.stride *= 2
        if total:
            self.last_step, self.last = _in_64_bits(steps[-1]), float(values[-1])


def _in_64_bits(step: int) -> int:
    return max(-INT64, min(int(step), INT64 - 1))


class Comparison(NamedTuple):
    """Whether the values of a curve are the same in the target, and whether their steps are, too,
    as far as both are known."""

    equal: bool
    same_steps: bool


def compared(source: Curve, points: Sequence[tuple[int, float]]) -> Comparison:
    """Compare a curve with all points that the target has, in the order in which they were logged.

    A run that was filled has more points in the target than were read: the last ones are compared.
    """
    offset = len(points) - source.count
    if offset < 0:
        return Comparison(False, False)
    there = points[offset :: source.stride]
    pairs = list(zip(source.steps, source.values, there, strict=False))
    equal = all(_same(value, found) for _, value, (_, found) in pairs)
    equal = equal and _same(source.last, points[-1][1])
    return Comparison(equal, all(step == found for step, _, (found, _) in pairs))


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
