"""Compares the points of one metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from mlflow_wandb_plugin.core.protocols import Difference
from mlflow_wandb_plugin.mapping.to_mlflow import same_value
from mlflow_wandb_plugin.mlflow_access.point_blocks import LARGEST
from mlflow_wandb_plugin.targets.mlflow.comparison.expected_run import PointColumns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows: TypeAlias = "NDArray[np.void]"

FIELDS = ("step", "timestamp_ms", "value")
Point: TypeAlias = "tuple[int, int, float]"
"""Step, Unix ms, value."""


def different_points(
    wanted: PointColumns | None, there: PointColumns | None
) -> tuple[list[Point], list[Point]]:
    """Return the points of ``wanted`` that are not in ``there``, and those of ``there`` that are
    not in ``wanted``, by step. Exact repeats count once, as MLflow stores them."""
    import numpy as np

    first, second = _sorted(wanted), _sorted(there)
    if first.shape == second.shape and bool((first == second).all()):
        return [], []
    both = np.concatenate((first, second))
    order = np.lexsort([both[name] for name in reversed(FIELDS)])
    ordered = both[order]
    repeated = np.zeros(len(both), bool)
    repeated[1:] = ordered[1:] == ordered[:-1]
    repeated[:-1] |= repeated[1:]
    alone, is_wanted = ordered[~repeated], order[~repeated] < len(first)
    return _points(alone[is_wanted]), _points(alone[~is_wanted])


def point_differences(
    name: str, missing: Sequence[Point], extra: Sequence[Point]
) -> list[Difference]:
    """Describe the points of a metric that differ: a missing and an extra point of one step are
    one difference. MLflow cannot remove a point."""
    by_step: dict[int, list[Point]] = {}
    for point in extra:
        by_step.setdefault(point[0], []).append(point)
    differences = []
    for step, at, value in missing:
        wrong = by_step.get(step)
        if wrong:
            _, wrong_at, wrong_value = wrong.pop(0)
            what = f"{wrong_value} at time {wrong_at} ms, not {value} at time {at} ms"
            differences.append(Difference(f"metric {name}: step {step} has {what}", fixable=False))
        else:
            what = f"no point {value} at step {step}, time {at} ms"
            differences.append(Difference(f"metric {name}: {what}"))
    for left in by_step.values():
        for step, at, value in left:
            what = f"W&B has no point {value} at step {step}, time {at} ms"
            differences.append(
                Difference(f"metric {name}: {what}", fixable=False, only_in="target")
            )
    return differences


def latest_difference(name: str, points: PointColumns, found: float | None) -> Difference | None:
    """Compare a metric's latest value, which MLflow keeps beside its points; None if it is that of
    the latest point: the one of the highest step, time and value."""
    import numpy as np

    rows = _sorted(points)
    for field in FIELDS[:2]:
        rows = rows[rows[field] == rows[field].max()]
    values = rows["value"].view("f8")
    # A NaN counts as 0 in one store and has no place in the order of another.
    of_any = values if np.isnan(values).any() else values[values == values.max()]
    latest = [float(value) for value in of_any]
    if found is not None and any(same_value(_stored(found), value) for value in latest):
        return None
    there = "absent" if found is None else found
    what = f"metric {name}: its latest value is {there}, not {latest[0]}"
    return Difference(what, fixable=found is None)


def _stored(value: float) -> float:
    """A value as MLflow's database keeps it."""
    return value if math.isnan(value) else max(-LARGEST, min(LARGEST, value))


def _sorted(points: PointColumns | None) -> Rows:
    """Distinct points in order, with values as MLflow's database keeps them; bits of a NaN and
    signs of zero are not compared."""
    import numpy as np

    kind = np.dtype([("step", "i8"), ("timestamp_ms", "i8"), ("value", "i8")])
    if points is None:
        return np.empty(0, kind)
    rows = np.empty(len(points.values), kind)
    rows["step"] = np.frombuffer(points.steps, "i8") if points.steps else 0
    rows["timestamp_ms"] = np.frombuffer(points.timestamps_ms, "i8") if points.steps else 0
    values = np.array(points.values, "f8")
    values[np.isposinf(values)], values[np.isneginf(values)] = LARGEST, -LARGEST
    values[np.isnan(values)] = np.nan
    rows["value"] = (values + 0.0).view("i8")
    rows = rows[np.lexsort([rows[name] for name in reversed(FIELDS)])]
    if len(rows) > 1:
        rows = rows[np.concatenate(([True], rows[1:] != rows[:-1]))]
    return rows


def _points(rows: Rows) -> list[Point]:
    columns = rows["step"], rows["timestamp_ms"], rows["value"].view("f8")
    return list(zip(*(column.tolist() for column in columns), strict=True))
