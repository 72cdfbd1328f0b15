"""Parts of ``--engine ray`` that need no cluster: refusals, and the limit on requests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.backfill.options import Job
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_ray.request_gate import RequestGateActor
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
def test_targets_that_all_nodes_reach_are_accepted(to: str) -> None:
    """Tracking servers, and databases that are servers."""
    plugins.open_engine("ray").check(Job("wandb://e/p", to))


def test_the_refusal_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    """The command says what to do, shows no password, starts nothing and leaves 2."""
    said = mlflow_wandb("backfill", tmp_path, "--engine", "ray", env=env, cwd=tmp_path)
    (line,) = said.stderr.splitlines()
    assert said.returncode == 2
    assert line.startswith("mlflow-wandb: --engine ray writes from many nodes")
    assert "pass --to http://HOST:PORT" in line


def test_an_engine_that_does_not_exist_is_an_error(env: dict[str, str], tmp_path: Path) -> None:
    """A misspelt engine is one line and 2, and so is an address without the engine."""
    said = mlflow_wandb("backfill", tmp_path, "--engine", "spark", env=env, cwd=tmp_path)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "there is no engine spark" in said.stderr
    said = mlflow_wandb("backfill", tmp_path, "--ray-address", "x:1", env=env, cwd=tmp_path)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "--ray-address needs --engine ray" in said.stderr


def run(what: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(what, 30))


def test_requests_of_all_processes_are_counted_together() -> None:
    """No more than the limit are under way; another begins when one has ended."""

    async def scenario() -> list[int]:
        gate = RequestGateActor(start=2, most=2)
        first, second = await gate.begin(), await gate.begin()
        third = asyncio.ensure_future(gate.begin())
        await asyncio.sleep(0)
        assert not third.done()
        await gate.end(first, False, None)
        await gate.end(await third, False, None)
        await gate.end(second, False, None)
        return [first, second, third.result()]

    assert run(scenario()) == [0, 1, 2]


def test_a_refusal_delays_every_process() -> None:
    """After a 429 no request begins before the Retry-After time, and then fewer at once."""

    async def scenario() -> tuple[float, bool]:
        gate = RequestGateActor(start=2, most=2)
        loop = asyncio.get_running_loop()
        number = await gate.begin()
        await gate.end(number, True, 0.4)
        refused = loop.time()
        await gate.begin()
        waited = loop.time() - refused
        another = asyncio.ensure_future(gate.begin())
        await asyncio.sleep(0.05)
        began = another.done()
        another.cancel()
        return waited, began

    waited, second_began = run(scenario())
    assert waited >= 0.39
    assert not second_began


def test_a_request_of_a_dead_process_stops_counting() -> None:
    """It never ends: after its time other requests begin."""

    async def scenario() -> int:
        gate = RequestGateActor(start=1, most=1, max_request_s=0.2)
        await gate.begin()
        return await gate.begin()

    assert run(scenario()) == 1
