"""A small Ray for one program: two CPUs, no dashboard, gone at the end."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def small_ray(cpus: int = 2, **options: Any) -> Iterator[Any]:
    import ray

    # The dashboard's packages are not needed, and its port may be taken.
    ray.init(
        num_cpus=cpus,
        object_store_memory=100_000_000,
        include_dashboard=False,
        log_to_driver="RAY_TESTS_LOG" in os.environ,
        **options,
    )
    try:
        yield ray
    finally:
        ray.shutdown()


def next_step() -> int:
    """Where a trial goes on: what its checkpoint says, else at the first step."""
    from ray import tune

    checkpoint = tune.get_checkpoint()
    if not checkpoint:
        return 0
    with checkpoint.as_directory() as folder:
        return int(json.loads((Path(folder) / "state.json").read_text())["next"])


def tell(path: Path, **what: Any) -> None:
    """Append a line to a file that the program and its workers share."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


def told(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def trial_of(name: str, config: dict[str, Any], trial_id: str = "abcde_00000") -> Any:
    """Tune's trial of an experiment on a storage path in this folder, without a cluster."""
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial

    class WithoutCluster(Trial):  # type: ignore[misc]
        local_path = str(Path.cwd() / "trial")

    storage = StorageContext(storage_path=str(Path.cwd() / "storage"), experiment_dir_name=name)
    known: dict[str, Any] = {"trial_id": trial_id, "stub": True, "storage": storage}
    return WithoutCluster("a-trainable", config=config, **known)
