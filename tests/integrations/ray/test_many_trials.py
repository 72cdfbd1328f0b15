"""A search with many trials leaves nothing of those that have ended in the driver."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integrations.ray.conftest import Left

pytestmark = pytest.mark.slow
TRIALS = 30


def test_ended_trials_leave_no_thread_file_or_object(program: Callable[..., Left]) -> None:
    """From the third trial on, the driver has as much as after the thirtieth; both homes have all
    of them. The program measures a thousand as well."""
    left = program("many_trials", str(TRIALS), "many")
    early, late = left.said[1], left.said[-1]
    assert late["trials"] == TRIALS
    for kind in ("Run", "RunTap", "Journal", "RunThread", "Trial", "threads"):
        assert late[kind] <= early[kind] + 1, kind
    assert late["files"] <= early["files"] + 3
    runs = left.wandb("many")
    assert len(runs) == TRIALS
    numbers = sorted(left.mlflow[run.name].points("loss")[0][1] for run in runs)
    assert numbers == [float(number) for number in range(TRIALS)]
