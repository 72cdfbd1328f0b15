"""Curves with few points of the series that a backfill carries, for its report."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping

from mlflow_wandb_plugin.core.model import Item, Key, Series

CURVES_A_RUN = 3
POINTS_A_CURVE = 120

Curve = list[tuple[int, float]]


class Curves:
    """Keeps a few points of the first few keys of each run."""

    def __init__(self) -> None:
        self._curves: dict[str, dict[Key, _Thinned]] = {}
        self._from_other_processes: dict[str, dict[Key, Curve]] = {}
        self._lock = threading.Lock()

    def watch(self, run_id: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield ``items``, and keep points of their series."""
        with self._lock:
            curves = self._curves.setdefault(run_id, {})
        for item in items:
            if isinstance(item, Series) and item.kind == "history":
                if item.key not in curves and len(curves) < CURVES_A_RUN:
                    curves[item.key] = _Thinned()
                if item.key in curves:
                    curves[item.key].add(item)
            yield item

    def add(self, run_id: str, curves: Mapping[Key, Curve]) -> None:
        """Add the curves of a run that another process carried."""
        with self._lock:
            self._from_other_processes[run_id] = dict(curves)

    def of(self, run_id: str) -> dict[Key, Curve]:
        """Return the curves of a run by key."""
        if run_id in self._from_other_processes:
            return self._from_other_processes[run_id]
        return {key: thinned.points for key, thinned in self._curves.get(run_id, {}).items()}


class _Thinned:
    """Keeps every n-th point; n doubles whenever there are too many."""

    def __init__(self) -> None:
        self.points: Curve = []
        self._stride = 1
        self._seen = 0

    def add(self, series: Series) -> None:
        for step, value in zip(series.steps, series.values, strict=True):
            if self._seen % self._stride == 0:
                self.points.append((step, value))
                if len(self.points) > 2 * POINTS_A_CURVE:
                    self.points = self.points[::2]
                    self._stride *= 2
            self._seen += 1
