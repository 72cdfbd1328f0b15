"""Group an MLflow run's points into the rows of W&B's history, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core.model import Series
from mlflow_wandb_plugin.mapping import to_wandb as rules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class RowBuilder:
    """Numbers the rows of one run, oldest first.

    Points with one step and time share a row; of several points of one key with this step and
    time, the second is in the next row, and so on. Other rows, such as those of images, are between
    them by their times: each comes after the points of its own millisecond.

    Args:
        names: MLflow's keys, by the number that points have.
        other_times_ms: Unix ms of the other rows, in order.
        since: rows with lower numbers are counted and left out.

    Attributes:
        rows: number of rows of points so far.
        last: the last value by W&B key.
        last_ms: time of the last row.
    """

    def __init__(self, names: Sequence[str], other_times_ms: Sequence[int], since: int = 0) -> None:
        import numpy as np

        self._keys = sorted({rules.metric_key(name) for name in names})
        places = {key: place for place, key in enumerate(self._keys)}
        self._places = np.array([places[rules.metric_key(name)] for name in names], "i4")
        self._others = np.array(other_times_ms, "i8")
        self._since = since
        self.rows = 0
        self.last: dict[str, float] = {}
        self.last_ms: int | None = None
        self._block_times = self._block_ends = np.empty(0, "i8")
        self._rows_before = 0

    def series(self, block: NDArray[np.void]) -> Iterator[Series]:
        """Yield the columns of a block of `PointSpool.blocks`, and the column of MLflow's steps."""
        import numpy as np

        times, steps = block["timestamp_ms"], block["step"]
        places = self._places[block["key"]]
        first = np.empty(len(block), bool)
        first[0] = True
        first[1:] = (times[1:] != times[:-1]) | (steps[1:] != steps[:-1])
        groups = np.cumsum(first) - 1
        ranks = _occurrences(groups, places)
        height = np.zeros(groups[-1] + 1, "i8")
        np.maximum.at(height, groups, ranks + 1)
        ends = np.cumsum(height)
        self._rows_before = self.rows
        self._block_times, self._block_ends = times[first], ends
        starts = self.rows + ends - height
        numbers = starts[groups] + ranks + self._others_before(times)
        self.rows += int(ends[-1])
        yield from self._columns(places, numbers, times, block["value"])
        row_times, row_steps = np.repeat(times[first], height), np.repeat(steps[first], height)
        row_numbers = np.arange(self._rows_before, self.rows) + self._others_before(row_times)
        self.last_ms = int(times[-1])
        self.last[rules.STEP_METRIC] = float(row_steps[-1])
        yield from self._column(rules.STEP_METRIC, row_numbers, row_times, row_steps.astype("f8"))

    def other_number(self, place: int, time_ms: int) -> int:
        """Return the number of another row, whose time is in the latest block or behind all that
        came.

        Args:
            place: its place among the other rows.
        """
        import numpy as np

        before = int(np.searchsorted(self._block_times, time_ms, "right"))
        return place + self._rows_before + (int(self._block_ends[before - 1]) if before else 0)

    def _others_before(self, times: NDArray[np.int64]) -> Any:
        import numpy as np

        return np.searchsorted(self._others, times, "left")

    def _columns(self, places: Any, numbers: Any, times: Any, values: Any) -> Iterator[Series]:
        import numpy as np

        order = np.lexsort((numbers, places))
        bounds = np.flatnonzero(np.diff(places[order])) + 1
        for part in np.split(order, bounds):
            key = self._keys[places[part[0]]]
            self.last[key] = float(values[part[-1]])
            yield from self._column(key, numbers[part], times[part], values[part])

    def _column(self, key: str, numbers: Any, times: Any, values: Any) -> Iterator[Series]:
        if self._since:
            wanted = numbers >= self._since
            numbers, times, values = numbers[wanted], times[wanted], values[wanted]
        if len(numbers):
            yield Series((key,), numbers.tolist(), times.tolist(), values.tolist())


def _occurrences(groups: Any, places: Any) -> Any:
    """For each point, how many earlier points of its group have its key."""
    import numpy as np

    order = np.lexsort((places, groups))
    starts = np.empty(len(order), bool)
    starts[0] = True
    starts[1:] = (np.diff(groups[order]) != 0) | (np.diff(places[order]) != 0)
    begins = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    ranks = np.empty(len(order), "i8")
    ranks[order] = np.arange(len(order)) - begins
    return ranks
