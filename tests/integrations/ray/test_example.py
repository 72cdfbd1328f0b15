"""examples/ray_tune.py runs as its page says, on a Ray of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integrations.ray.conftest import ROOT
from tests.support.examples import environment, finished, run_example

pytestmark = [pytest.mark.slow, pytest.mark.ray_cluster, pytest.mark.timeout(400)]


def test_trials_stand_below_one_parent(tmp_path: Path, empty_store: Path) -> None:
    """Both trials are complete in MLflow, each with its five results."""
    env = environment(tmp_path, empty_store)
    # Unix sockets have short names: Ray's go below /tmp.
    env = {name: value for name, value in env.items() if name not in ("TMPDIR", "PYTHONWARNINGS")}
    env |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations")]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    done, runs = run_example("python examples/ray_tune.py", env)
    trials = {key: run for key, run in runs.items() if "wandb.run_id" in run.tags}
    assert list(finished(trials).values()) == [5, 5]
    (parent,) = {run.tags["mlflow.parentRunId"] for run in trials.values()}
    assert runs[parent].name == "ray-tune"
    assert "best learning rate: 0.3" in done.stdout
