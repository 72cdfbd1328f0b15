"""The curves of a report as the data that its page draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from mlflow_wandb_plugin.backfill.curves import Curve, Curves, compared
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.core.model import Key

ReadBack = Callable[[str, Key], Sequence[tuple[int, float]]]
"""Reads all points (step, value) of a metric of a run in the target, by the run's id and the W&B
key, in the order in which they were logged; empty if it cannot."""
CurveData: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]
"""The curves of each run, by its number in the report."""
MOST_READ_BACK = 200_000
"""Points of a metric that is read back: what the target returns is in memory as a whole."""


def curves_of_runs(outcomes: Sequence[Outcome], curves: Curves, read_back: ReadBack) -> CurveData:
    """Return the curves of all runs that have any."""
    drawn = {
        str(number): [
            _drawn(key, curve, read_back, outcome)
            for key, curve in curves.of(outcome.run.run_id).items()
        ]
        for number, outcome in enumerate(outcomes)
        if outcome.mlflow_run_id
    }
    return {number: found for number, found in drawn.items() if found}


def _drawn(key: Key, curve: Curve, read_back: ReadBack, outcome: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = {"key": ".".join(key), "source": _points(curve)}
    if curve.count > MOST_READ_BACK:
        return document | {"note": "too many points to be read back"}
    there = read_back(outcome.mlflow_run_id, key)
    if not there:
        return document
    found = compared(curve, there)
    same_length = len(there) == curve.count
    # A run that was repaired has points from before.
    equal = found.equal and (same_length or outcome.action == "repaired")
    if equal and found.same_steps and same_length:
        return document | {"target": "same", "together": True}
    target = Curve()
    target.add([step for step, _ in there], [value for _, value in there])
    document["target"] = _points(target)
    if equal and found.same_steps:
        return document | {"together": True}
    note = "equal values at other steps" if equal else "the two differ"
    return document | {"together": False, "note": note}


def _points(curve: Curve) -> dict[str, Any]:
    steps, values = [*curve.steps], [*curve.values]
    if steps and curve.last_step != steps[-1]:
        steps.append(curve.last_step)
        values.append(curve.last)
    return {
        "n": curve.count,
        "last": _rounded(curve.last),
        "x": steps,
        "y": [_rounded(value) for value in values],
    }


def _rounded(value: float) -> float | None:
    """Return a value as a pixel shows it; None for NaN and infinity, which JSON lacks."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
