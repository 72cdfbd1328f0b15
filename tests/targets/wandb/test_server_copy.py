"""A project of one W&B server copied to another: equal, however often the copy is interrupted."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import sixty
from tests.support.commands import mlflow_wandb
from tests.support.environment import isolated
from tests.support.killing import forker
from tests.support.kills import kills
from tests.support.processes import wait_until
from tests.support.wandb_state import differing, project_of, project_state
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = kills(20)
KILLED_RUNS = 10


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[WandbServer, WandbServer]]:
    with WandbServer(folder / "source") as source, WandbServer(folder / "target") as target:
        yield source, target
        for server in (source, target):
            assert not server.executor.unknown, "fields that the server does not know"


def keys(folder: Path, source: WandbServer, target: WandbServer) -> dict[str, str]:
    """An environment whose own key is for the source alone."""
    target.api_key = "f" * 40
    return isolated(
        folder, WANDB_MODE="online", WANDB_API_KEY=source.api_key, WANDB_BASE_URL=source.url,
        MLFLOW_WANDB_TARGET_API_KEY=target.api_key, PYTHONWARNINGS="ignore",
        PYTHONPATH=os.environ.get("PYTHONPATH", ""),
    )  # fmt: skip


def ends(source: WandbServer, target: WandbServer, project: str) -> tuple[str, ...]:
    return (f"wandb://tester/{project}", "--to", f"wandb+{target.url}/bob/copy")


def test_sixty_runs_are_equal_on_the_other_server(tmp_path: Path) -> None:
    """Rows, config, summary, files, artifacts in order, lineage; the second time all is skipped."""
    with two_servers(tmp_path) as (source, target):
        sixty.build(source, tmp_path / "build", f"sqlite:///{tmp_path / 'dual.db'}")
        env = keys(tmp_path / "copy", source, target)
        arguments = ends(source, target, sixty.PROJECT)
        copied = mlflow_wandb("backfill", *arguments, "--json", env=env, cwd=tmp_path)
        assert copied.returncode == 0, copied.stdout + copied.stderr
        wanted = project_state(project_of(source, "tester", sixty.PROJECT))
        found = project_state(project_of(target, "bob", "copy"))
        assert differing(found, wanted) == []
        verified = mlflow_wandb("verify", *arguments, "--json", env=env, cwd=tmp_path)
        results = {run["result"] for run in json.loads(verified.stdout)}
        assert (verified.returncode, results) == (0, {"equal"})
        before = len(target.asked("UpsertBucket"))
        again = mlflow_wandb("backfill", *arguments, "--json", env=env, cwd=tmp_path)
        actions = [run["action"] for run in json.loads(again.stdout)["runs"]]
        assert (again.returncode, set(actions)) == (0, {"skipped"})
        # A run that still runs is looked at again.
        assert len(target.asked("UpsertBucket")) - before <= 2


@pytest.mark.kills
def test_many_kills_leave_what_an_undisturbed_copy_leaves(tmp_path: Path) -> None:
    """Each kill comes after some requests to the target, whatever they are."""
    chance = random.Random(15)
    with two_servers(tmp_path) as (source, target):
        for run in range(KILLED_RUNS):
            source.add_run(
                "killed", f"run-{run}", display_name=f"name {run}", config={"lr": run / 7},
                rows=[{"_step": 3 * i, "_timestamp": 1.7e9 + i, "loss": i / (run + 1), "t": f"{i}"}
                      for i in range(40)],
                files={"saved.bin": bytes([run]) * 1000}, tags=["x"], group=f"g{run % 2}",
            )  # fmt: skip
        env = keys(tmp_path / "copy", source, target)
        line = " ".join(("backfill", *ends(source, target, "killed"), "--json"))
        with forker(env, tmp_path, tmp_path / "errors.txt") as commands:
            for number in range(KILLS):
                before, some = len(target.requests), chance.randint(1, 25)

                def reached(before: int = before, some: int = some) -> bool:
                    return len(target.requests) >= before + some

                code = commands.run(line, lambda: wait_until(reached, 240))
                assert code == -9, number
            assert commands.run(line) == 0
        wanted = project_state(project_of(source, "tester", "killed"))
        found = project_state(project_of(target, "bob", "copy"))
        assert differing(found, wanted) == []
