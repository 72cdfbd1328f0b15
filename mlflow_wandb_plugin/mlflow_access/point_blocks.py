"""Points of one metric in columns, as MLflow stores them.

NaN is stored as 0 with ``is_nan``, an infinity as the largest float; ``latest_metrics`` holds the
point with the greatest (step, timestamp, stored value), the one logged first where several are
equal. These are the rules of ``SqlAlchemyStore.log_batch``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from mlflow_wandb_plugin.core.model import INT64

if TYPE_CHECKING:
    from mlflow.entities import Metric

COLUMNS = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")
LARGEST = 1.7976931348623157e308

Row: TypeAlias = "tuple[str, float, int, int, bool, str]"


class Points(NamedTuple):
    """Points of one metric as columns of one length: values, Unix ms, steps."""

    name: str
    values: Sequence[float]
    timestamps_ms: Sequence[int]
    steps: Sequence[int]

    def storable(self) -> bool:
        """Whether no time or step is out of MLflow's range: times begin with 0, both have 64
        bits."""
        times, steps = self.timestamps_ms, self.steps
        return min(times) >= 0 and max(times) < INT64 and -INT64 <= min(steps) <= max(steps) < INT64

    def split(self) -> tuple[Points, Points]:
        """Return the points that are `storable`, and the others."""
        single = [self.cut(at, at + 1) for at in range(len(self.values))]
        good, bad = (
            [at for at, one in enumerate(single) if one.storable() is fits]
            for fits in (True, False)
        )
        return self._at(good), self._at(bad)

    def _at(self, places: Sequence[int]) -> Points:
        values = [self.values[at] for at in places]
        times = [self.timestamps_ms[at] for at in places]
        return Points(self.name, values, times, [self.steps[at] for at in places])

    def finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        # The sum is fast; but finite numbers may add up to infinity.
        return math.isfinite(sum(self.values)) or all(map(math.isfinite, self.values))

    def cut(self, start: int, stop: int | None) -> Points:
        """The points from ``start`` to ``stop``."""
        part = slice(start, stop)
        return Points(self.name, self.values[part], self.timestamps_ms[part], self.steps[part])

    def columns(
        self,
    ) -> tuple[Sequence[str], Sequence[float], Sequence[int], Sequence[int], Sequence[bool]]:
        """The columns of table ``metrics``: key, value, timestamp, step, is_nan."""
        values, count = self.values, len(self.values)
        nan = [False] * count
        if not self.finite():
            nan = [value != value for value in values]
            values = [stored(value) for value in values]
        return [self.name] * count, values, self.timestamps_ms, self.steps, nan

    def latest(self, run_id: str) -> Row:
        """The row of table ``latest_metrics`` if the metric has no other points."""
        value = self.values[at := self.latest_at()]
        nan = value != value
        return self.name, stored(value), self.timestamps_ms[at], self.steps[at], nan, run_id

    def latest_at(self) -> int:
        """The index of the latest point."""
        steps, highest = self.steps, max(self.steps)
        if steps.count(highest) == 1:
            return steps.index(highest)
        values = map(stored, self.values)
        # Negative indexes: the greatest of equal points is the first one.
        order = range(0, -len(self.values), -1)
        *_, at = max(zip(steps, self.timestamps_ms, values, order, strict=True))
        return -at


class BulkWriter(Protocol):
    """Writes many points of a run at once."""

    @property
    def backs_off(self) -> bool:
        """Whether `write` itself retries while the target is not available."""

    def write(self, run_id: str, blocks: Sequence[Points]) -> None:
        """Write points; may be repeated."""

    def fits(self, blocks: Sequence[Points]) -> bool:
        """Whether the points are few enough to share a transaction with other work."""


def joined(blocks: Sequence[Points]) -> list[Points]:
    """Join points of the same metric; each name is there once."""
    names = [points.name for points in blocks]
    if len(set(names)) == len(names):
        return list(blocks)
    by_name: dict[str, tuple[list[float], list[int], list[int]]] = {}
    for points in blocks:
        columns = by_name.setdefault(points.name, ([], [], []))
        columns[0].extend(points.values)
        columns[1].extend(points.timestamps_ms)
        columns[2].extend(points.steps)
    return [Points(name, *columns) for name, columns in by_name.items()]


def metrics_of(blocks: Sequence[Points]) -> Iterator[Metric]:
    """The points as MLflow's objects."""
    from mlflow.entities import Metric

    for points in blocks:
        for value, at, step in zip(*points[1:], strict=True):
            yield Metric(points.name, value, at, step)


def stored(value: float) -> float:
    """A value as MLflow's database stores it."""
    if math.isfinite(value):
        return value
    return 0.0 if math.isnan(value) else math.copysign(LARGEST, value)
