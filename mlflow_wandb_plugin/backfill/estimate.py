"""How long a backfill may take, by what was measured elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_wandb_plugin.backfill.plan import PlannedRun

POINTS_A_SECOND = {"bulk": 50_000, "requests": 8_000, "api": 3_000, "auto": 50_000}
"""By write path, on two cores; see docs/performance.md."""
OTHER_POINTS_A_SECOND = 100_000
BYTES_A_SECOND = 20_000_000
REQUESTS_A_SECOND = 10
RUN_S = 0.05


def estimated_s(planned: Sequence[PlannedRun], write_path: str) -> float:
    """Estimate the seconds that the planned runs take; what limits them is the slowest part."""
    todo = [item for item in planned if item.decision.action == "migrate"]
    speed = POINTS_A_SECOND.get(write_path, OTHER_POINTS_A_SECOND)
    writing = sum(item.size.points for item in todo) / speed
    files = sum(item.size.file_bytes for item in todo) / BYTES_A_SECOND
    asking = sum(item.size.requests for item in todo) / REQUESTS_A_SECOND
    return max(writing + files, asking) + RUN_S * len(todo)


def about(seconds: float) -> str:
    """Return a duration in words, as exact as an estimate is."""
    if seconds < 10:
        return "less than 10 seconds"
    if seconds < 90:
        return f"about {10 * round(seconds / 10)} seconds"
    if seconds < 5400:
        return f"about {round(seconds / 60)} minutes"
    return f"about {round(seconds / 3600)} hours"
