"""What of ``--engine ray`` needs no cluster: refusals, and the turns at W&B."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.job import Job
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_ray.turns import PaceKeeper
from tests.support.commands import mlflow_wandb


@pytest.mark.parametrize(
    "to",
    [
        "sqlite:///mlflow.db",
        "./mlruns",
        "file:///tmp/mlruns",
        "archive:kept",
        "wandb+sqlite:///x.db",
    ],
)
def test_targets_of_one_machine_are_refused(to: str) -> None:
    """A file cannot be written from many nodes, whatever it is called."""
    engine = plugins.open_engine("ray")
    with pytest.raises(UsageError, match="is of one machine: start `mlflow server`"):
        engine.check(Job("wandb://e/p", to))


@pytest.mark.parametrize("to", ["http://host:5000", "databricks://profile", "postgresql://host/db"])
def test_targets_that_all_nodes_reach_are_taken(to: str) -> None:
    """Tracking servers, and databases that are servers."""
    plugins.open_engine("ray").check(Job("wandb://e/p", to))


def test_the_refusal_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    """The command says what to do, shows no password, starts nothing and leaves 2."""
    said = mlflow_wandb("backfill", tmp_path, "--engine", "ray", env=env, cwd=tmp_path)
    (line,) = said.stderr.splitlines()
    assert said.returncode == 2
    assert line.startswith("mlflow-wandb: --engine ray writes from many nodes")
    assert "pass --to http://HOST:PORT" in line


def test_an_engine_that_nobody_offers_is_named(env: dict[str, str], tmp_path: Path) -> None:
    """A misspelt engine is one line and 2, and so is an address without the engine."""
    said = mlflow_wandb("backfill", tmp_path, "--engine", "spark", env=env, cwd=tmp_path)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "there is no engine spark" in said.stderr
    said = mlflow_wandb("backfill", tmp_path, "--ray-address", "x:1", env=env, cwd=tmp_path)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "--ray-address needs --engine ray" in said.stderr


def run(what: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(what, 30))


def test_turns_of_all_processes_are_counted_together() -> None:
    """No more than the limit are under way; another begins when one is given back."""

    async def scenario() -> dict[str, int]:
        keeper = PaceKeeper(start=2, most=2)
        first, second = await keeper.begin(), await keeper.begin()
        third = asyncio.ensure_future(keeper.begin())
        await asyncio.sleep(0)
        assert not third.done()
        await keeper.end(first, False, None)
        await keeper.end(await third, False, None)
        await keeper.end(second, False, None)
        return await keeper.told()

    assert run(scenario()) == {"given": 3, "most_at_once": 2}


def test_a_refusal_holds_up_everybody() -> None:
    """After a 429 nobody begins until the server's time is over, and then fewer at once."""

    async def scenario() -> tuple[float, bool]:
        keeper = PaceKeeper(start=2, most=2)
        loop = asyncio.get_running_loop()
        number = await keeper.begin()
        await keeper.end(number, True, 0.4)
        refused = loop.time()
        await keeper.begin()
        waited = loop.time() - refused
        another = asyncio.ensure_future(keeper.begin())
        await asyncio.sleep(0.05)
        began = another.done()
        another.cancel()
        return waited, began

    waited, second_began = run(scenario())
    assert waited >= 0.39
    assert not second_began


def test_a_turn_of_a_dead_process_is_taken_back() -> None:
    """Nobody gives it back: after its time others go on."""

    async def scenario() -> dict[str, int]:
        keeper = PaceKeeper(start=1, most=1, lease_s=0.2)
        await keeper.begin()
        await keeper.begin()
        return await keeper.told()

    assert run(scenario())["given"] == 2
