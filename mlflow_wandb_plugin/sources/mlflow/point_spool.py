"""Points of one run in a temporary file, with keys as numbers: read in blocks, in order."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST = sys.float_info.max
"""MLflow's databases hold infinities as the largest float."""


class PointSpool:
    """Takes points in any order and returns them by time, step, key and value.

    Points are added quickly and read slowly: so a database is not kept busy while they are written
    elsewhere. Memory holds one block, and all points only while `sort` is called.

    Attributes:
        names: the keys; a point has its key's place in this list.
        count: number of points.
    """

    def __init__(self) -> None:
        import numpy as np

        self._type = np.dtype(
            [("timestamp_ms", "i8"), ("step", "i8"), ("value", "f8"), ("key", "i4")]
        )
        self._file = tempfile.TemporaryFile(prefix="mlflow-wandb-points-")  # noqa: SIM115
        self._numbers: dict[str, int] = {}
        self.names: list[str] = []
        self.count = 0

    def add(
        self,
        keys: Iterable[str],
        timestamps_ms: Sequence[int],
        steps: Sequence[int],
        values: Sequence[float],
    ) -> None:
        """Add points as columns of one length; infinities may be the largest float."""
        import numpy as np

        part = np.empty(len(values), self._type)
        part["key"] = [self._number(key) for key in keys]
        part["timestamp_ms"], part["step"] = timestamps_ms, steps
        numbers = np.array(values, "f8")
        numbers[numbers == LARGEST], numbers[numbers == -LARGEST] = np.inf, -np.inf
        part["value"] = numbers
        part.tofile(self._file)
        self.count += len(part)

    def clear(self) -> None:
        """Remove all points; keys keep their numbers."""
        self._file.seek(0)
        self._file.truncate()
        self.count = 0

    def _number(self, key: str) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.names)
            self.names.append(key)
        return number

    def sort(self) -> None:
        """Sort the points; needed unless they were added by time, step, key and value."""
        import numpy as np

        ranks = np.empty(len(self.names), "i4")
        ranks[sorted(range(len(self.names)), key=self.names.__getitem__)] = range(len(self.names))
        self._file.seek(0)
        points = np.fromfile(self._file, self._type)
        columns = points["value"], ranks[points["key"]], points["step"], points["timestamp_ms"]
        points = points[np.lexsort(columns)]
        self._file.seek(0)
        points.tofile(self._file)

    def blocks(self, points: int) -> Iterator[NDArray[np.void]]:
        """Yield all points in blocks of ``points``, more where those of one step and time would be
        divided. The arrays have the fields timestamp_ms, step, value and key."""
        import numpy as np

        self._file.seek(0)
        held = np.empty(0, self._type)
        while True:
            part = np.fromfile(self._file, self._type, points)
            block = np.concatenate((held, part)) if len(held) else part
            if len(part) < points:
                if len(block):
                    yield block
                return
            start = _last_group(block)
            if start:
                yield block[:start]
            held = block[start:]

    def close(self) -> None:
        self._file.close()


def _last_group(block: Any) -> int:
    """Place of the first point that has the step and time of the last one."""
    differs = (block["timestamp_ms"] != block["timestamp_ms"][-1]) | (
        block["step"] != block["step"][-1]
    )
    places = differs.nonzero()[0]
    return int(places[-1]) + 1 if len(places) else 0
