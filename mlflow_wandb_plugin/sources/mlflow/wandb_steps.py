"""Find W&B's steps of points that stand in MLflow at the values of step metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin.core.step_axes import StepAxes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def can_be_found(axes: StepAxes) -> bool:
    """Whether all step metrics stand at W&B's steps themselves, so that theirs tell the others."""
    return not any(any(axes.spans(name)[1]) for name in axes.metrics)


class WandbSteps:
    """Replaces the step of a point by the step of its step metric's point with that value and time.

    A point for which there is none was written at W&B's step.

    Args:
        axes: for which `can_be_found` is true.
        keys: dotted W&B keys, by the number that points have.
    """

    def __init__(self, axes: StepAxes, keys: Sequence[str]) -> None:
        self._axes = axes
        self._keys = keys
        self._metrics = {name: place for place, name in enumerate(keys) if name in axes.metrics}
        self._by_metric: dict[str, tuple[Any, Any, Any]] = {}

    def learn(self, blocks: Iterable[NDArray[np.void]]) -> None:
        """Learn where the points of step metrics stand; takes 24 bytes of memory each."""
        import numpy as np

        parts: dict[str, list[tuple[Any, Any, Any]]] = {name: [] for name in self._metrics}
        for block in blocks:
            for name, place in self._metrics.items():
                own = block[block["key"] == place]
                values = own["value"]
                whole = own[(np.floor(values) == values) & (np.abs(values) < 2.0**63)]
                if len(whole):
                    columns = whole["timestamp_ms"], whole["value"].astype("i8"), whole["step"]
                    parts[name].append(columns)
        for name, found in parts.items():
            if found:
                times, numbers, steps = (np.concatenate(part) for part in zip(*found, strict=True))
                order = np.lexsort((steps, numbers, times))
                self._by_metric[name] = times[order], numbers[order], steps[order]

    def restored(self, block: NDArray[np.void]) -> NDArray[np.void]:
        """Return the points of a block with W&B's steps."""
        import numpy as np

        block = block.copy()
        for place in np.unique(block["key"]).tolist():
            for metric in dict.fromkeys(self._axes.spans(self._keys[place])[1]):
                if metric in self._by_metric:
                    own = np.flatnonzero(block["key"] == place)
                    block["step"][own] = _steps(block[own], *self._by_metric[metric])
        return block


def _steps(points: Any, times: Any, numbers: Any, steps: Any) -> Any:
    """W&B's steps of one key's points, given the (time, value, step) of the step metric's."""
    import numpy as np

    found = points["step"].copy()
    first = np.searchsorted(times, points["timestamp_ms"], "left")
    end = np.searchsorted(times, points["timestamp_ms"], "right")
    alone = np.flatnonzero(end - first == 1)
    same = alone[numbers[first[alone]] == points["step"][alone]]
    found[same] = steps[first[same]]
    used: Counter[tuple[int, int]] = Counter()
    for at in np.flatnonzero(end - first > 1).tolist():
        # Several rows of one millisecond.
        begin, wanted = int(first[at]), int(points["step"][at])
        here = steps[begin : end[at]][numbers[begin : end[at]] == wanted]
        place = int(points["timestamp_ms"][at]), wanted
        if used[place] < len(here):
            found[at] = here[used[place]]
            used[place] += 1
    return found
