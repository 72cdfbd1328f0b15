"""Ids and configs of the runs that Ray's trainings have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlflow_wandb_ray.runs import local_folder, run_id, shown, storage_path


def test_ids_are_the_same_for_the_same_place_only(tmp_path: Path) -> None:
    """Storage path and experiment name decide; parts do not run into each other."""
    from ray.train.v2._internal.execution.storage import StorageContext

    first, again, other = (
        StorageContext(tmp_path / path, name)
        for path, name in (("a", "exp"), ("a", "exp"), ("b", "exp"))
    )
    assert storage_path(first) == storage_path(again) != storage_path(other)
    assert local_folder(first) == tmp_path / "a" / "exp"
    assert run_id("a", "bc") == run_id("a", "bc") != run_id("ab", "c")
    assert len(run_id("a")) == 20


def test_remote_storage_is_no_local_folder() -> None:
    """A bucket has no folder on this machine; its runs have ids all the same."""
    from ray.train.v2._internal.execution.storage import StorageContext

    remote = StorageContext("mock://host/bucket", "exp")
    assert local_folder(remote) is None
    assert storage_path(remote) == "mock:bucket/exp"


def test_a_config_becomes_plain_values() -> None:
    """Numbers of NumPy, tuples, classes and what else a training is given; secrets are hidden."""
    assert shown(
        {"lr": np.float32(0.5), "sizes": (1, 2), "model": Path, 3: {"api_key": "x", "n": None}}
    ) == {"lr": 0.5, "sizes": [1, 2], "model": "Path", "3": {"api_key": "***", "n": None}}
