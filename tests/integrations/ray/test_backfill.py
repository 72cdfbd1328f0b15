"""``mlflow-wandb backfill --engine ray`` on two nodes, one of which is killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.backfill.written import make_folder, points_at
from tests.integrations.ray.conftest import PROGRAMS, ray_environment
from tests.support.commands import COMMAND, mlflow_wandb
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import started, wait_until
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.ray_cluster, pytest.mark.timeout(400)]
RUNS, STEPS = 6, 40
PROJECT, LIMITED = "run", "limited"
RETRY_AFTER_S = 3.0
HISTORY = "HistoryPage"


@dataclass
class Backfilled:
    """Reports: of the round in which a node was killed, of the same again, of the same by threads
    of this process; of a round in which W&B said 429 once, and of the same runs by threads into
    another store. And what MLflow has in the end."""

    killed: dict[str, Any]
    again: dict[str, Any]
    local: dict[str, Any]
    runs: dict[str, RunState]
    read: dict[str, int]
    """How often the history of each run was asked for."""
    limited: dict[str, Any]
    by_threads: dict[str, Any]
    refused_at: float
    asked_at: list[float]
    """When W&B was asked for anything in the round with the 429, which began it to wait."""
    pages: tuple[str, str]
    """The reports of these two rounds as HTML."""
    written: dict[str, list[tuple[int, float]]]
    """Points of runs in a folder that were carried by the cluster, too, by run."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, wandb: WandbServer, server: str) -> Backfilled:
    folder = tmp_path_factory.mktemp("two-nodes")
    env = ray_environment(folder, wandb)
    for index in range(RUNS):
        for project in (PROJECT, LIMITED):
            name = f"{project[0]}-{index}"
            wandb.add_run(project, name, config={"index": index}, rows=rows(index))
    arguments = ["backfill", f"wandb+{wandb.url}/tester/{PROJECT}", "--to", server, "--json"]
    other = [*arguments[:1], f"wandb+{wandb.url}/tester/{LIMITED}", *arguments[2:]]
    with two_nodes(env, folder) as (address, say):
        on_ray = ["--engine", "ray", "--ray-address", address]
        spread = [*arguments, *on_ray]
        refused_at, asked_at = refusing_once(wandb)
        limited = report([*other, *on_ray, "--report", "ray.html"], env, folder)
        wandb.heal()
        killed = with_a_node_killed(spread, env, folder, wandb, say)
        again = report(spread, env, folder)
        written = make_folder(folder / "shared", "shelf")
        report(["backfill", str(folder / "shared"), *arguments[2:], *on_ray], env, folder)
    local = report(arguments, env, folder)
    elsewhere = ["--to", f"sqlite:///{folder / 'threads.db'}", "--json"]
    by_threads = report([*other[:2], *elsewhere, "--report", "threads.html"], env, folder)
    found = read_runs_of(PROJECT, server)
    names = [f"r-{index}" for index in range(RUNS)]
    read = {name: len(wandb.asked(HISTORY, name)) for name in names}
    pages = ((folder / "ray.html").read_text(), (folder / "threads.html").read_text())
    return Backfilled(
        killed, again, local, found, read, limited, by_threads, refused_at[0], asked_at, pages,
        written,
    )  # fmt: skip


def rows(index: int) -> list[dict[str, Any]]:
    return [
        {"_step": step, "_timestamp": 1_700_000_000 + step, "loss": index + 1 / (step + 1)}
        for step in range(STEPS)
    ]


def read_runs_of(project: str, uri: str) -> dict[str, RunState]:
    """By W&B id, of one project: the server is shared."""
    from mlflow import MlflowClient

    experiment = MlflowClient(uri).get_experiment_by_name(project)
    assert experiment is not None
    found = read_runs(uri, experiments=[experiment.experiment_id])
    return {key: run for key, run in found.items() if run.tags["wandb.project"] == project}


def refusing_once(wandb: WandbServer) -> tuple[list[float], list[float]]:
    """The third request for a history is refused; returns when, and when everything was asked."""
    refused_at: list[float] = []
    asked_at: list[float] = []
    wandb.fail("*", times=None, before=lambda: asked_at.append(time.monotonic()))
    wandb.fail(
        HISTORY, skip=2, status=429, retry_after=RETRY_AFTER_S,
        before=lambda: refused_at.append(time.monotonic()),
    )  # fmt: skip
    return refused_at, asked_at


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
    assert sorted(done.runs) == [f"r-{index}" for index in range(RUNS)]
    for index in range(RUNS):
        run = done.runs[f"r-{index}"]
        wanted = [(row["loss"], row["_timestamp"] * 1000, row["_step"]) for row in rows(index)]
        assert run.metrics["loss"] == wanted
        assert run.params == {"index": str(index)}
        assert (run.status, run.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")


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


def test_one_refusal_holds_up_all_nodes(done: Backfilled) -> None:
    """After a 429 no process of the cluster asks W&B for anything until its time is over."""
    since = [at - done.refused_at for at in done.asked_at]
    # Requests that were under way may still be counted; nothing begins after them.
    assert [at for at in since if 1.0 < at < RETRY_AFTER_S - 0.1] == []
    assert [at for at in since if at >= RETRY_AFTER_S - 0.1]
    assert done.limited["counts"]["migrated"] == RUNS


def test_a_report_of_migrated_runs_is_the_one_of_threads(done: Backfilled) -> None:
    """Verdicts, actions and points are equal; so are the curves of the page."""

    def comparable(found: dict[str, Any]) -> list[dict[str, Any]]:
        runs = [{**run, "mlflow_run_id": "", "link": ""} for run in found["runs"]]
        return sorted(runs, key=lambda run: str(run["run_id"]))

    assert done.limited["counts"] == done.by_threads["counts"]
    assert comparable(done.limited) == comparable(done.by_threads)
    texts = [re.findall(r'id="curves">(.*?)</script>', page)[0] for page in done.pages]
    curves = [sorted(map(str, json.loads(text).values())) for text in texts]
    assert curves[0] == curves[1]
    assert len(curves[0]) >= RUNS


def test_runs_in_a_shared_folder_arrive_completely(done: Backfilled, server: str) -> None:
    """Nodes read what the driver has listed."""
    assert points_at(server, "shelf") == done.written
