"""`setup_dual` in Ray Train's local mode, in both homes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integrations.ray.conftest import Left, assert_same_points, rows_of


@pytest.fixture(scope="module")
def left(program: Callable[..., Left]) -> Left:
    return program("local")


def test_a_training_is_one_run_in_each_backend(left: Left) -> None:
    """Metrics, config without its secret, name and status are the same in both homes; a training
    that is begun again without storage is another run."""
    assert left.said == ["finished", "as intended", "finished"]
    runs = left.wandb("local")
    assert len({run.name for run in runs}) == 2
    for run in runs:
        twin = left.mlflow[run.name]
        assert rows_of(run) == [{"loss": 0.5 / (step + 1)} for step in range(3)]
        assert_same_points(run, twin)
        assert (run.state, twin.status) == ("finished", "FINISHED")
        assert run.display_name == twin.name == "small-training"
        assert twin.params == {
            "lr": "0.5", "layers": "[1, 2]", "model": "Path", "api_key": "***",
        }  # fmt: skip
        assert twin.tags["mlflow.wandb.state"] == "complete"


def test_a_training_that_fails_is_failed_in_both_backends(left: Left) -> None:
    """The exception reaches the trainer, and both runs say so."""
    run, twin = left.only("local-fails")
    assert rows_of(run) == [{"loss": 1.0}]
    assert (run.state, twin.status) == ("failed", "FAILED")
    assert_same_points(run, twin)
