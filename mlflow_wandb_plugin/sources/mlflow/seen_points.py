"""Leave out points of a mirrored run that repeat an earlier one exactly, as MLflow's tables do."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from mlflow_wandb_plugin.core.model import INT64, as_float

_LARGEST = sys.float_info.max


class SeenPoints:
    """The points of one journal, by key."""

    def __init__(self) -> None:
        self._by_key: dict[str, _KeyPoints] = {}

    def new(self, metrics: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
        """Those of [key, value, timestamp in Unix ms, step] that were not passed before."""
        return [metric for metric in metrics if self._is_new(*metric)]

    def _is_new(self, key: str, value: Any, timestamp_ms: int, step: int) -> bool:
        points = self._by_key.get(key)
        if points is None:
            points = self._by_key[key] = _KeyPoints()
        return points.add((int(step), int(timestamp_ms), _stored(value)))


class _KeyPoints:
    """The points of one key: compact as long as each is later than those before."""

    def __init__(self) -> None:
        self._last = (-math.inf, -math.inf)
        self._ints, self._values = array("q"), array("d")
        self._all: set[tuple[int, int, float | None]] | None = None

    def add(self, point: tuple[int, int, float]) -> bool:
        """Add a point; False if it is there."""
        later = point[:2] > self._last
        if later:
            self._last = point[:2]
        if self._all is None:
            if later and max(map(abs, point[:2])) < INT64:
                self._ints.extend(point[:2])
                self._values.append(point[2])
                return True
            steps, times = self._ints[::2], self._ints[1::2]
            self._all = set(zip(steps, times, map(_hashable, self._values), strict=True))
            self._ints, self._values = array("q"), array("d")
        known = (*point[:2], _hashable(point[2]))
        if known in self._all:
            return False
        self._all.add(known)
        return True


def _stored(value: Any) -> float:
    """A value as MLflow's tables hold it: without infinities, and one zero."""
    number = as_float(value)
    return number if math.isnan(number) else max(-_LARGEST, min(_LARGEST, number)) + 0.0


def _hashable(value: float) -> float | None:
    return None if math.isnan(value) else value
