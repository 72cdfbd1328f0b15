"""Summary values of a run, whose logs and W&B's server tell them at different points.

Each log of a resumed run ends with a summary, whose numbers become points at that log's end. W&B's
server knows only the last summary, and not which log set a value of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mlflow_wandb_plugin.mapping import system_metrics, to_mlflow
from mlflow_wandb_plugin.targets.mlflow.comparison.expected_run import PointColumns
from mlflow_wandb_plugin.targets.mlflow.comparison.points import Point

REASON = "W&B's server does not say which log of a resumed run set a summary value"


class SummaryValues:
    """Says which differing points are summary values that only one of two descriptions has.

    Args:
        points: of the run as it would be written now.
        of_summary: see `RunPoints`.
        other_rows: (Unix ms, step) of the rows that hold more than numbers.
        from_server: whether W&B's server describes the run, and logs its replica; else the other
            way round.
    """

    def __init__(
        self,
        points: Mapping[str, PointColumns],
        of_summary: Mapping[str, list[tuple[int, int]]],
        other_rows: Iterable[tuple[int, int]],
        from_server: bool,
    ) -> None:
        self._points = points
        self._of_summary = of_summary
        self._from_server = from_server
        numbers = (
            (at, step)
            for name in points
            if not name.startswith(system_metrics.PREFIX)
            for step, at in self._places(name) - set(of_summary.get(name, ()))
        )
        self._rows = sorted({*numbers, *other_rows})

    def explain(self, name: str, missing: Sequence[Point], extra: Sequence[Point]) -> bool:
        """Whether the points of a metric that differ are such values."""
        own = self._of_summary.get(name, [])
        if any((step, at) not in own for step, at, _ in missing):
            return False
        logged = self._logged(name, set(own))
        for step, at, value in extra:
            if (step, at) in logged or not self._may_end_a_log(step, at):
                # The summary of a log whose last row has the metric comes 1 ms later.
                return False
            if any(row[0] == step and to_mlflow.same_value(logged[row], value) for row in logged):
                # A summary that history ends with makes no point.
                return False
        if self._from_server:
            # The replica has the last summary's value, set by one of the logs.
            return not missing or any(_same(missing[-1], one) for one in extra)
        # W&B's server has the metric's last value, and no other summary value.
        last = [point for point in missing if point[:2] == max(self._places(name))]
        return len(extra) <= 1 and all(any(_same(one, wanted) for one in extra) for wanted in last)

    def _logged(self, name: str, own: set[tuple[int, int]]) -> dict[tuple[int, int], float]:
        """Values of a metric in history by (step, Unix ms)."""
        columns = self._points[name]
        places = zip(columns.steps, columns.timestamps_ms, strict=True)
        values = dict(zip(places, columns.values, strict=True))
        return {place: value for place, value in values.items() if place not in own}

    def _places(self, name: str) -> set[tuple[int, int]]:
        columns = self._points[name]
        return set(zip(columns.steps, columns.timestamps_ms, strict=True))

    def _may_end_a_log(self, step: int, at_ms: int) -> bool:
        """Whether a log may have ended at a point: after a row of its step and before the next
        row, or before all rows."""
        before = [row for row in self._rows if row[0] <= at_ms]
        if not before:
            return step == 0
        return any(row == (before[-1][0], step) for row in before)


def _same(one: Point, other: Point) -> bool:
    return to_mlflow.same_value(one[2], other[2])
