"""Every row that `log()` returned from reaches MLflow once, whichever process dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core.helper_process import NICENESS
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import free_port, mlflow_server, started, wait_until

# Logs until told to stop. A step's number is written down only once log() has returned from it.
TRAINER = """
import os, sys, time
import mlflow_wandb_plugin.wandb as wandb

run = wandb.init(project="nothing-lost", id="victim")
done = os.open("logged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for step in range(1_000_000):
    begin = time.perf_counter()
    run.log({"loss": 1.0 / (step + 1), "double": step * 2.0, "text": f"row {step}"})
    took = time.perf_counter() - begin
    os.write(done, b"%d %f\\n" % (step, took))
    if os.path.exists("stop"):
        break
    time.sleep(0.002)
run.finish()
"""


class Trainer:
    """A training script at work in ``folder``."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, wandb_dir: Path) -> None:
        self.process = process
        self._folder = folder
        self._journals = wandb_dir / "wandb" / "mlflow"

    def logged(self) -> list[int]:
        """The steps that log() has returned from."""
        return [int(line.split()[0]) for line in self._lines()]

    def seconds_in_log(self) -> list[float]:
        return [float(line.split()[1]) for line in self._lines()]

    def _lines(self) -> list[str]:
        path = self._folder / "logged"
        # The last line may be half written.
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def wait_for(self, steps: int) -> None:
        wait_until(
            lambda: len(self.logged()) >= steps or self.process.poll() is not None,
            60,
            f"{steps} steps",
        )

    def status(self) -> dict[str, object]:
        for path in self._journals.glob("[!.]*.status"):
            status: dict[str, object] = json.loads(path.read_text())
            return status
        return {}

    def replicator(self) -> int:
        """The process that writes the run to MLflow, once it does."""
        wait_until(lambda: self.status().get("run_id"), 240, "the MLflow run")
        return int(str(self.status()["pid"]))

    def stop(self) -> str:
        """End the training; returns what it has written to standard error."""
        (self._folder / "stop").touch()
        return self.process.communicate(timeout=120)[1]


@contextmanager
def trainer(env: dict[str, str], folder: Path) -> Iterator[Trainer]:
    script = folder / "train.py"
    script.write_text(TRAINER)
    with started([sys.executable, str(script)], env, folder) as process:
        yield Trainer(process, folder, Path(env["WANDB_DIR"]))


def sync(env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """`mlflow-wandb sync` as a user would call it."""
    return subprocess.run(
        [sys.executable, "-m", "mlflow_wandb_plugin.cli", "sync"],
        env=env, cwd=folder, capture_output=True, text=True, timeout=150,
    )  # fmt: skip


def the_run(uri: str) -> RunState:
    runs = read_runs(uri)
    assert list(runs) == ["victim"]
    return runs["victim"]


def assert_all_there(run: RunState, logged: list[int]) -> None:
    """Every logged step is in MLflow exactly once, and nothing that was never logged."""
    steps = [step for step, _ in run.points("loss")]
    assert len(steps) == len(set(steps))
    assert set(logged) <= set(steps)
    # The row whose log() was under way at the kill may be there as well.
    assert set(steps) <= set(range(len(logged) + 1))
    assert run.points("double") == [(step, step * 2.0) for step in steps]


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def kill_trainer(t: Trainer) -> None:
    t.process.kill()


def kill_replicator(t: Trainer) -> None:
    os.kill(t.replicator(), signal.SIGKILL)
    t.wait_for(len(t.logged()) + 200)
    t.process.kill()


def kill_both(t: Trainer) -> None:
    os.kill(t.replicator(), signal.SIGKILL)
    t.process.kill()


@pytest.mark.slow
def test_training_has_priority_over_the_replicator(env: dict[str, str], tmp_path: Path) -> None:
    """The replicator has a lower priority than the training process."""
    with trainer(env, tmp_path) as t:
        replicator = os.getpriority(os.PRIO_PROCESS, t.replicator())
        assert replicator == max(NICENESS, os.getpriority(os.PRIO_PROCESS, t.process.pid))
        t.stop()


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_trainer, kill_replicator, kill_both])
def test_a_kill_at_a_random_moment_loses_no_row(
    kill: Callable[[Trainer], None], env: dict[str, str], tmp_path: Path
) -> None:
    """After `sync`, MLflow has every row that log() returned from, and no open run."""
    with trainer(env, tmp_path) as t:
        t.wait_for(random.randint(1, 900))
        kill(t)
        t.process.wait(timeout=30)
        logged = t.logged()
    result = sync(env, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    run = the_run(env["MLFLOW_TRACKING_URI"])
    assert_all_there(run, logged)
    assert run.status == "KILLED"
    assert run.tags["mlflow.wandb.state"] == "complete"


@pytest.mark.slow
def test_a_killed_trainer_needs_nobody_to_call_sync(env: dict[str, str], tmp_path: Path) -> None:
    """The replicator outlives the training process, ships the rest, and ends."""
    with trainer(env, tmp_path) as t:
        t.wait_for(300)
        replicator = t.replicator()
        t.process.kill()
        t.process.wait(timeout=30)
        wait_until(lambda: t.status().get("state") == "complete", 240, "the replica")
        wait_until(lambda: ended(replicator), 240, "the replicator's end")
        logged = t.logged()
    run = the_run(env["MLFLOW_TRACKING_URI"])
    assert_all_there(run, logged)
    assert run.status == "KILLED"


@pytest.mark.slow
def test_a_replicator_that_was_killed_is_replaced_while_training_goes_on(
    env: dict[str, str], tmp_path: Path
) -> None:
    """MLflow gets later rows before finish(), twice; one warning says it; the run is FINISHED."""
    uri = env["MLFLOW_TRACKING_URI"]
    with trainer(env, tmp_path) as t:
        t.wait_for(300)
        for _ in range(2):
            killed = t.replicator()
            os.kill(killed, signal.SIGKILL)
            at_kill = len(t.logged())
            wait_until(lambda killed=killed: t.replicator() != killed, 120, "another replicator")
            wait_until(
                lambda rows=at_kill: len(the_run(uri).metrics.get("loss", [])) > rows + 1,
                240,
                "later rows",
            )
        assert t.process.poll() is None
        warnings = t.stop()
        logged = t.logged()
    assert warnings.count("was killed by signal 9; it is started again") == 1
    run = the_run(env["MLFLOW_TRACKING_URI"])
    assert_all_there(run, logged)
    assert run.status == "FINISHED"


@pytest.mark.slow
def test_mlflow_down_from_the_start(env: dict[str, str], tmp_path: Path) -> None:
    """Training neither waits nor fails; later `sync` delivers everything once."""
    port = free_port()
    env["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    env["MLFLOW_WANDB_LINGER"] = "1"
    with trainer(env, tmp_path) as t:
        t.wait_for(200)
        t.stop()
        assert t.process.returncode == 0
        logged, seconds = t.logged(), t.seconds_in_log()
    assert sorted(seconds)[len(seconds) // 2] < 0.01
    with mlflow_server(tmp_path / "server", port):
        result = sync(env, tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        run = the_run(env["MLFLOW_TRACKING_URI"])
    assert_all_there(run, logged)
    assert run.status == "FINISHED"
    assert run.params == {}


@pytest.mark.slow
def test_mlflow_going_down_in_the_middle(env: dict[str, str], tmp_path: Path) -> None:
    """An outage is only seen in the status; afterwards the same run goes on."""
    port = free_port()
    env["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    with trainer(env, tmp_path) as t:
        with mlflow_server(tmp_path / "server", port):
            t.wait_for(400)
            wait_until(lambda: t.status().get("state") == "live", 240, "a live replica")
        t.wait_for(len(t.logged()) + 300)
        wait_until(lambda: t.status().get("state") == "waiting", 240, "notice of the outage")
        with mlflow_server(tmp_path / "server", port):
            wait_until(lambda: t.status().get("state") == "live", 240, "recovery")
            t.stop()
            logged = t.logged()
            wait_until(lambda: t.status().get("state") == "complete", 120, "the delivery")
            run = the_run(env["MLFLOW_TRACKING_URI"])
    assert t.process.returncode == 0
    assert_all_there(run, logged)
    assert run.status == "FINISHED"
