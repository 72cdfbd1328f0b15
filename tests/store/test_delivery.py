"""Waiting for W&B at the end of a process."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from mlflow_wandb_plugin.journal.status_file import write_status
from mlflow_wandb_plugin.store import delivery
from tests.support.environment import isolated
from tests.support.processes import run_script
from tests.support.stores import copy_store


@pytest.mark.slow
def test_a_process_that_waits_leaves_nothing_to_deliver(tmp_path: Path, empty_store: Path) -> None:
    """With mirror_wait, W&B has the script's runs at its exit, also one left open."""
    uri = copy_store(empty_store, tmp_path / "mlflow.db")
    env = isolated(
        tmp_path,
        MLFLOW_TRACKING_URI=f"wandb+{uri}",
        MLFLOW_WANDB_MIRROR_WAIT="90",
        MLFLOW_WANDB_LINGER="1",
    )
    code = "import mlflow\nprint(mlflow.start_run().info.run_id)\nmlflow.log_metric('x', 1)\n"
    done = run_script(code, env, tmp_path / "work")
    run_id = done.stdout.split()[0]
    assert not list((tmp_path / "work" / "wandb" / "mlflow").glob("*.journal"))
    [folder] = (tmp_path / "work" / "wandb").glob(f"offline-run-*-{run_id}")
    assert (folder / f"run-{run_id}.wandb").is_file()


def test_no_wait_for_a_run_that_cannot_arrive(mirrored: str, fresh_process: Path) -> None:
    """The wait ends as soon as the replicator reports that W&B cannot be reached."""
    with mlflow.start_run() as run:
        mlflow.log_metric("x", 1)
    run_id = run.info.run_id
    assert not delivery.all_arrived(0.0)
    write_status(fresh_process / f"{run_id}.journal", {"state": "waiting"})
    assert not delivery.arrived(run_id, 3600)


def test_a_run_that_is_not_mirrored_needs_no_waiting(mirrored: str) -> None:
    """There is no journal of it."""
    assert delivery.arrived("0" * 32, 3600)
