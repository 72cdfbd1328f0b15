"""Runs that go to the other system and back are as they were."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import sixty
from tests.support.commands import mlflow_wandb
from tests.support.environment import isolated
from tests.support.killing import forker
from tests.support.processes import wait_until
from tests.support.wandb_state import differing, project_of, project_state
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import Worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = 20
KILLED_RUNS = 30
"""Enough that they are never all complete before the last kill."""
LONG_NOTES = "a long note " * 2000

LOG_DESCRIBED = """
import wandb
with wandb.init(project="sixty", id="described", notes={notes!r}) as run:
    run.define_metric("epoch")
    run.define_metric("val/*", step_metric="epoch", summary="min")
    for i in range(5):
        run.log({{"epoch": i, "val/loss": abs(i - 2), "last": i}})
    run.summary["alone"] = 4
with wandb.init(project="sixty", id="no-rows") as run:
    run.summary["alone"] = 0.5
"""


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[WandbServer, WandbServer]]:
    with WandbServer(folder / "one") as one, WandbServer(folder / "other") as other:
        other.api_key = "f" * 40
        yield one, other
        for server in (one, other):
            assert not server.executor.unknown, "fields that the server does not know"


def keys(folder: Path, source: WandbServer, target: WandbServer) -> dict[str, str]:
    """An environment whose own key is for the source alone."""
    return isolated(
        folder, WANDB_MODE="online", WANDB_API_KEY=source.api_key, WANDB_BASE_URL=source.url,
        MLFLOW_WANDB_TARGET_API_KEY=target.api_key, PYTHONWARNINGS="ignore",
        PYTHONPATH=os.environ.get("PYTHONPATH", ""),
    )  # fmt: skip


def backfilled(*arguments: str, env: dict[str, str], cwd: Path) -> list[str]:
    """Run a backfill that succeeds; what it did with each run."""
    done = mlflow_wandb("backfill", *arguments, "--json", env=env, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted({run["action"] for run in json.loads(done.stdout)["runs"]})


def verified(*arguments: str, env: dict[str, str], cwd: Path) -> set[str]:
    done = mlflow_wandb("verify", *arguments, "--json", env=env, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return {run["result"] for run in json.loads(done.stdout)}


def definitions(server: WandbServer, entity: str, project: str) -> dict[str, Any]:
    """How each run's metrics are shown."""
    runs = project_of(server, entity, project).runs
    return {
        name: run.config.get("_wandb", {}).get("value", {}).get("m") for name, run in runs.items()
    }


def test_a_project_of_wandb_comes_back_from_mlflow_as_it_was(tmp_path: Path) -> None:
    """Rows, config, summary, files, artifacts in order, what runs used, and shown metrics."""
    with two_servers(tmp_path) as (one, other):
        sixty.build(one, tmp_path / "build", f"sqlite:///{tmp_path / 'dual.db'}")
        with Worker(one, tmp_path / "described") as worker:
            worker.call(LOG_DESCRIBED.format(notes=LONG_NOTES), timeout=120)
        env = keys(tmp_path / "copy", one, other)
        store, project = f"sqlite:///{tmp_path / 'store.db'}", f"wandb://tester/{sixty.PROJECT}"
        there = f"wandb+{other.url}/bob/copy"
        assert backfilled(project, "--to", store, env=env, cwd=tmp_path) == ["migrated"]
        assert verified(project, "--to", store, env=env, cwd=tmp_path) == {"equal"}
        assert backfilled(store, "--to", there, env=env, cwd=tmp_path) == ["migrated"]
        wanted = project_state(project_of(one, "tester", sixty.PROJECT))
        found = project_state(project_of(other, "bob", "copy"))
        assert len(wanted) == len(found) > 58
        assert found["described"]["notes"] == LONG_NOTES
        assert differing(found, wanted) == []
        shown = definitions(one, "tester", sixty.PROJECT)
        assert shown["described"]
        assert definitions(other, "bob", "copy")["described"] == shown["described"]
        assert verified(store, "--to", there, env=env, cwd=tmp_path) == {"equal"}


def killed(
    arguments: str, requests: Callable[[], int], env: dict[str, str], folder: Path, seed: int
) -> None:
    """Run a command, killed `KILLS` times after some requests, and then to its end."""
    chance = random.Random(seed)
    with forker(env, folder, folder / "errors.txt") as commands:
        for number in range(KILLS):
            wanted = requests() + chance.randint(1, 12)

            def reached(wanted: int = wanted) -> bool:
                return requests() >= wanted

            code = commands.run(arguments, lambda: wait_until(reached, 60))
            assert code == -9, number
        assert commands.run(arguments) == 0


def test_a_round_trip_that_is_killed_twenty_times_each_way_is_equal(tmp_path: Path) -> None:
    """From W&B to MLflow and back, each command killed at random requests to a W&B server."""
    with two_servers(tmp_path) as (one, other):
        for run in range(KILLED_RUNS):
            one.add_run(
                "killed", f"run-{run}", display_name=f"name {run}", config={"lr": run / 7},
                rows=[{"_step": 3 * i, "_timestamp": 1.7e9 + i, "loss": i / (run + 1), "t": f"{i}"}
                      for i in range(40)],
                summary={"loss": 39 / (run + 1), "t": "39", "alone": run},
                files={"saved.bin": bytes([run]) * 1000}, tags=["x"], group=f"g{run % 2}",
            )  # fmt: skip
        env = keys(tmp_path / "copy", one, other)
        store, there = f"sqlite:///{tmp_path / 'store.db'}", f"wandb+{other.url}/bob/copy"
        away = f"backfill wandb://tester/killed --to {store} --json"
        killed(away, lambda: len(one.requests), env, tmp_path, 5)
        killed(
            f"backfill {store} --to {there} --json", lambda: len(other.requests), env, tmp_path, 6
        )
        wanted = project_state(project_of(one, "tester", "killed"))
        assert differing(project_state(project_of(other, "bob", "copy")), wanted) == []
