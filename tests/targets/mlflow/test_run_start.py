"""From which moment the steps of system metrics are counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlflow_wandb_plugin.mlflow_access.point_blocks import Points
from mlflow_wandb_plugin.targets.mlflow.run_start import counted_from

START_MS = 1_700_000_000_000


def counted(times_ms: list[int], start_ms: int) -> Points:
    """Points of a system metric whose steps are the whole seconds since ``start_ms``."""
    steps = [max(0, at - start_ms) // 1000 for at in times_ms]
    return Points("system/cpu", [0.0] * len(times_ms), times_ms, steps)


@given(
    st.lists(st.integers(-5_000, 100_000), max_size=20),
    st.lists(st.integers(-5_000, 100_000), max_size=20),
    st.integers(-10_000, 10_000),
)
def test_the_start_that_gave_the_steps_is_found_from_them(
    first: list[int], second: list[int], by: int
) -> None:
    """Counting from it again gives each step, whatever another clock says of the run's start."""
    blocks = [counted([START_MS + at for at in times], START_MS) for times in (first, second)]
    found = counted_from(START_MS + by, blocks)
    assert [counted(list(one.timestamps_ms), found) for one in blocks] == blocks


def test_a_start_that_gives_the_steps_is_kept() -> None:
    """Of several that give them, the one nearest to the run's own is taken."""
    points = counted([START_MS + 1_500, START_MS + 2_900], START_MS)
    assert counted_from(START_MS + 100, [points]) == START_MS + 100
    assert counted_from(START_MS + 700, [points]) == START_MS + 500
    assert counted_from(START_MS - 700, [points]) == START_MS - 99
    assert counted_from(START_MS, []) == START_MS


def test_steps_that_no_start_gives_are_not_relied_on() -> None:
    """MLflow's own system metrics count their samples."""
    samples = Points("system/cpu", [0.0, 0.0], [START_MS, START_MS + 10_000], [0, 1])
    seconds = counted([START_MS + 5_000], START_MS)
    assert counted_from(START_MS + 16, [samples, seconds]) == START_MS + 16
