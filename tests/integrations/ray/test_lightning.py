"""PyTorch Lightning inside Ray's TorchTrainer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integrations.ray.conftest import Left, rows_of

pytest.importorskip("torch", reason="torch is not installed: pip install torch")
pytest.importorskip("lightning", reason="Lightning is not installed: pip install lightning")
pytestmark = [pytest.mark.slow, pytest.mark.ray_cluster, pytest.mark.timeout(300)]


def test_lightnings_logger_writes_the_dual_run(program: Callable[..., Left]) -> None:
    """Two ranks train; Lightning's W&B logger takes the run of `setup_dual`, and only that one
    exists, with the epochs' losses in both homes."""
    left = program("lightning_train")
    run, twin = left.only("lightning")
    told = left.told("lightning")
    assert len(told) == 2
    losses = [row["loss"] for row in rows_of(run) if "loss" in row]
    assert losses == pytest.approx([line["loss"] for line in told])
    assert [value for _, value in twin.points("loss")] == losses
    assert (run.state, twin.status) == ("finished", "FINISHED")
    assert twin.params["lr"] == "0.1"
