"""``--engine processes``: every run once and whole, whatever happens to a process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.engines.processes import ProcessEngine, Processes
from mlflow_wandb_plugin.backfill.engines.remote import RemoteOutcome
from mlflow_wandb_plugin.backfill.options import BackfillOptions, Job
from mlflow_wandb_plugin.backfill.outcome import (
    Listener,
    Outcome,
)
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.errors import UsageError
from tests.backfill.written import RUNS, make_folder, points_at
from tests.support.commands import mlflow_wandb
from tests.support.environment import isolated
from tests.support.processes import silent_server, started, wait_until

TWO = BackfillOptions(workers=2)
# Whatever starts the tests in the background may have Ctrl-C ignored, and children inherit that.
HEEDING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from mlflow_wandb_plugin.cli import main
main()
"""


def test_every_run_arrives_once(tmp_path: Path, server: str) -> None:
    """Each value at its step, the report alone on standard output; done again, nothing is done."""
    wanted = make_folder(tmp_path / "wandb", "spread")
    arguments = ("backfill", tmp_path / "wandb", "--to", server, "--engine", "processes",
                 "--workers", "2", "--json")  # fmt: skip
    done = mlflow_wandb(*arguments, env=isolated(tmp_path), cwd=tmp_path)
    report = json.loads(done.stdout)
    assert (done.returncode, report["counts"]["migrated"]) == (0, RUNS), done.stderr
    assert points_at(server, "spread") == wanted
    again = json.loads(mlflow_wandb(*arguments, env=isolated(tmp_path), cwd=tmp_path).stdout)
    assert again["counts"]["skipped"] == RUNS
    assert points_at(server, "spread") == wanted


def test_a_process_that_is_killed_costs_no_point(tmp_path: Path, server: str) -> None:
    """Its run, and those that were given up with it, are carried by others."""
    wanted = make_folder(tmp_path / "wandb", "killed")
    job = Job(str(tmp_path / "wandb"), server, options=TWO)
    outcomes: list[Outcome] = []
    for outcome in ProcessEngine().run(job, Listener(), Curves()):
        if not outcomes:
            one, _ = multiprocessing.active_children()
            one.kill()
        outcomes.append(outcome)
    assert sorted(outcome.run.run_id for outcome in outcomes) == sorted(wanted)
    assert not [outcome for outcome in outcomes if outcome.action == "failed"]
    assert points_at(server, "killed") == wanted
    assert not multiprocessing.active_children()


def die_of_one(job: Job, run: RunInfo) -> RemoteOutcome:
    if run.run_id == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(run, "new", "migrated"), {}


def test_a_run_that_kills_its_process_fails_alone() -> None:
    """It is tried a few times; those beside it are none the worse."""
    names = ["a", "b", "poison", "c", "d", "e", "f"]
    with Processes(Job("nowhere", options=TWO), die_of_one) as processes:
        runs = (RunInfo(name, project="p") for name in names)
        outcomes = {outcome.run.run_id: outcome for outcome, _ in processes.carry(runs)}
    assert sorted(outcomes) == sorted(names)
    failed = outcomes.pop("poison")
    assert (failed.action, failed.reason[:26]) == ("failed", "its process ended 3 times:")
    assert {outcome.action for outcome in outcomes.values()} == {"migrated"}


def test_ctrl_c_while_a_process_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has taken note of it yet, and the command would wait for it for ever."""
    start = SpawnProcess.start

    def interrupted(process: SpawnProcess) -> None:
        start(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(SpawnProcess, "start", interrupted)
    runs = iter([RunInfo("a", project="p")])
    with pytest.raises(KeyboardInterrupt), Processes(Job("nowhere"), die_of_one) as processes:
        list(processes.carry(runs))
    assert not multiprocessing.active_children()


def children_of(pid: int) -> list[int]:
    """Living child processes that carry runs (Linux)."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if b"spawn_main" in command_of(int(child))]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_processes_end_with_the_command(tmp_path: Path, how: signal.Signals) -> None:
    """Also where a server never answers them, and where the command cannot say goodbye."""
    make_folder(tmp_path / "wandb", "ended")
    env: Mapping[str, str] = isolated(tmp_path)
    with silent_server() as port:
        to = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", HEEDING, "backfill", str(tmp_path / "wandb"), "--to", to,
                   "--engine", "processes", "--workers", "2"]  # fmt: skip
        with started(command, env, tmp_path) as process:
            wait_until(lambda: len(children_of(process.pid)) == 2, 240, "two processes")
            children = children_of(process.pid)
            process.send_signal(how)
            assert process.wait(30)
            wait_until(lambda: not any(map(command_of, children)), 240, "their end")


@pytest.mark.parametrize("to", ["sqlite:///mlflow.db", "./mlruns", "archive:kept"])
def test_a_target_with_one_writer_is_refused(to: str, tmp_path: Path) -> None:
    """More processes would wait for each other: the line says what to do."""
    with pytest.raises(UsageError, match="has one: leave --engine out, or pass --to with"):
        ProcessEngine().check(Job(str(tmp_path), to))


def test_a_server_of_w_and_b_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit on requests is for all processes together."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with pytest.raises(UsageError, match="a W&B server limits the requests"):
        ProcessEngine().check(Job("wandb+http://127.0.0.1:9/me/p", "http://127.0.0.1:5000"))
