"""``mlflow-wandb backfill --engine ray`` on two nodes, one of which is killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.ray.conftest import PROGRAMS, ray_environment
from tests.support.commands import COMMAND, mlflow_wandb
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import started, wait_until
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.ray_cluster, pytest.mark.timeout(400)]
RUNS, STEPS = 6, 40
PROJECT = "spread"
HISTORY = "HistoryPage"


@dataclass
class Backfilled:
    """Reports: of the round in which a node was killed, of the same again, and of the same with
    this process's threads; and what MLflow has in the end."""

    killed: dict[str, Any]
    again: dict[str, Any]
    local: dict[str, Any]
    runs: dict[str, RunState]
    read: dict[str, int]
    """How often the history of each run was asked for."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, wandb: WandbServer, server: str) -> Backfilled:
    folder = tmp_path_factory.mktemp("two-nodes")
    env = ray_environment(folder, wandb)
    for index in range(RUNS):
        wandb.add_run(PROJECT, f"run-{index}", config={"index": index}, rows=rows(index))
    arguments = ["backfill", f"wandb+{wandb.url}/tester/{PROJECT}", "--to", server, "--json"]
    with two_nodes(env, folder) as (address, say):
        spread = [*arguments, "--engine", "ray", "--ray-address", address]
        killed = with_a_node_killed(spread, env, folder, wandb, say)
        again = report(spread, env, folder)
    local = report(arguments, env, folder)
    found = read_runs(server)
    mine = {key: run for key, run in found.items() if run.tags.get("wandb.project") == PROJECT}
    names = [f"run-{index}" for index in range(RUNS)]
    read = {name: len(wandb.asked(HISTORY, name)) for name in names}
    return Backfilled(killed, again, local, mine, read)


def rows(index: int) -> list[dict[str, Any]]:
    return [
        {"_step": step, "_timestamp": 1_700_000_000 + step, "loss": index + 1 / (step + 1)}
        for step in range(STEPS)
    ]


@contextlib.contextmanager
def two_nodes(env: dict[str, str], folder: Path) -> Iterator[tuple[str, Callable[[str], None]]]:
    """A cluster; yields its address and what tells it to kill a node."""
    with open(folder / "cluster.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "two_nodes.py")],
            env=env, cwd=folder, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def say(word: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() == f"{word}ed"

    try:
        address = ""
        while ":" not in address or " " in address:
            address = process.stdout.readline().strip()
            assert process.poll() is None, (folder / "cluster.log").read_text()[-3000:]
        yield address, say
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
        process.stdout.close()


def report(arguments: list[str], env: dict[str, str], folder: Path) -> dict[str, Any]:
    ended = mlflow_wandb(*arguments, env=env, cwd=folder, timeout=180)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def with_a_node_killed(
    arguments: list[str],
    env: dict[str, str],
    folder: Path,
    wandb: WandbServer,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Each node holds one run, in the middle of its history, when one node is killed."""
    gate = threading.Event()
    fault = wandb.fail(HISTORY, times=None, gate=gate)
    try:
        with started([COMMAND, *arguments], env, folder) as process:
            wait_until(
                lambda: fault.hits >= 2 or process.poll() is not None, 120, "both nodes at work"
            )
            assert process.poll() is None, process.communicate()
            say("kill")
            gate.set()
            out, err = process.communicate(timeout=240)
    finally:
        gate.set()
        wandb.heal()
    assert process.returncode == 0, out + err
    found: dict[str, Any] = json.loads(out)
    return found


def test_every_run_arrives_once_although_a_node_died(done: Backfilled) -> None:
    """MLflow has one run for each, complete, with every point; the report counts them all."""
    counts = done.killed["counts"]
    assert counts["migrated"] + counts["repaired"] == RUNS
    assert counts["failed"] == counts["skipped"] == 0
    assert sorted(done.runs) == [f"run-{index}" for index in range(RUNS)]
    for index in range(RUNS):
        run = done.runs[f"run-{index}"]
        wanted = [(row["loss"], row["_timestamp"] * 1000, row["_step"]) for row in rows(index)]
        assert run.metrics["loss"] == wanted
        assert run.params == {"index": str(index)}
        assert (run.status, run.tags["wandb.sync.state"]) == ("FINISHED", "complete")


def test_the_run_of_the_dead_node_was_begun_again(done: Backfilled) -> None:
    """Its history was asked for twice, that of the others once: the death was in its middle."""
    assert sorted(done.read.values()) == [1] * (RUNS - 1) + [2]


def test_the_same_again_writes_nothing(done: Backfilled) -> None:
    """All runs are skipped as existing, with the twins of the first round."""
    assert done.again["counts"] == {"migrated": 0, "repaired": 0, "skipped": RUNS, "failed": 0}
    twins = {run["run_id"]: run["mlflow_run_id"] for run in done.again["runs"]}
    assert twins == {key: run.run_id for key, run in done.runs.items()}


def test_the_report_is_the_one_of_this_process(done: Backfilled) -> None:
    """What ``--engine ray`` says of each run is what threads say, whichever is done first."""
    assert done.again["counts"] == done.local["counts"]

    def by_id(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(runs, key=lambda run: str(run["run_id"]))

    assert by_id(done.again["runs"]) == by_id(done.local["runs"])
