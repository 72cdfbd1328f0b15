"""A Tune driver is killed in the middle of an experiment, which another process restores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.live.unsent_rows import KEPT_JOURNAL
from tests.integrations.ray.conftest import (
    PROGRAMS,
    Left,
    assert_same_points,
    ray_environment,
    rows_of,
)
from tests.integrations.ray.programs.restoring import HELD_AT, ITERATIONS, SAVED_EVERY
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import end_all_of, run_command, started, wait_until
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray_cluster,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not Path("/proc/self/environ").exists(), reason="what is left is found in /proc"
    ),
]
STEPS = "training_iteration"
TRIALS = 2
PROGRAM = [sys.executable, str(PROGRAMS / "restoring.py")]


def trials_in(uri: str) -> dict[str, RunState]:
    """By W&B id, without the parent run."""
    return {key: run for key, run in read_runs(uri).items() if "wandb.run_id" in run.tags}


def reported_before(uri: str) -> bool:
    """Whether MLflow, and so the journal, has what the trials reported until they are held."""
    found = [len(run.metrics.get("score", ())) for run in trials_in(uri).values()]
    return found == [HELD_AT] * TRIALS


def saved_by_tune(experiment: Path) -> bool:
    """Whether Tune's own state, from which it restores, is that of the trials that are held."""
    for file in experiment.glob("experiment_state-*.json"):
        try:
            trials = [json.loads(state) for _, state in json.loads(file.read_text())["trial_data"]]
        except ValueError:
            # Tune is writing it.
            return False
        return [trial["last_result"].get(STEPS) for trial in trials] == [HELD_AT] * TRIALS
    return False


class Killed:
    """An experiment whose driver is killed, and what another process makes of it."""

    def __init__(self, name: str, folder: Path, wandb: WandbServer, empty_store: Path) -> None:
        self.name = name
        self.uri = copy_store(empty_store, folder / "mlflow.db")
        self._folder, self._wandb = folder, wandb
        self._work = folder / "work"
        self._work.mkdir()
        self.experiment = self._work / "storage" / name
        self._env = ray_environment(folder, wandb)

    def begin_and_kill(self, kill: Callable[[subprocess.Popen[str]], None]) -> None:
        with started([*PROGRAM, "begin", self.name], self._env, self._work) as driver:
            wait_until(
                lambda: (
                    driver.poll() is not None
                    or (reported_before(self.uri) and saved_by_tune(self.experiment))
                ),
                120,
                "reports in MLflow and in Tune's state",
            )
            assert driver.poll() is None, driver.communicate()
            kill(driver)
            driver.wait(timeout=30)

    def restore(self) -> Left:
        done = run_command([*PROGRAM, "restore", self.name], self._env, self._work, 200)
        said = json.loads(done.stdout.splitlines()[-1])
        output = done.stdout + done.stderr
        return Left(said, output, self._work, self._wandb, self.uri, self._folder / "read")


def expected(left: Left, name: str) -> dict[str, list[dict[str, Any]]]:
    """What each trial reported, by its name: first until it was held, then from the checkpoint."""
    reports: dict[str, list[dict[str, Any]]] = {}
    for line in left.told(name):
        row = {"score": line["score"], "session": line["session"], STEPS: line["iteration"]}
        reports.setdefault(f"train_{line['trial']}", []).append(row)
    return reports


def assert_both_homes_have_all(left: Left, project: str) -> None:
    assert left.said == ["", ""]
    reports = expected(left, project)
    runs = {run.display_name: run for run in left.wandb(project)}
    assert sorted(runs) == sorted(reports)
    assert len(trials_in(left.uri)) == TRIALS
    again = HELD_AT // SAVED_EVERY * SAVED_EVERY
    for name, mine in reports.items():
        iterations = [row[STEPS] for row in mine]
        assert iterations == [*range(1, HELD_AT + 1), *range(again + 1, ITERATIONS + 1)]
        run, twin = runs[name], left.mlflow[runs[name].name]
        logged = [{key: row[key] for key in ("score", "session", STEPS)} for row in rows_of(run)]
        assert logged == mine
        assert_same_points(run, twin, STEPS)
        assert (run.state, twin.status) == ("finished", "FINISHED")
        assert twin.tags["mlflow.wandb.state"] == "complete"


def test_a_restored_experiment_resumes_the_same_runs(
    tmp_path: Path, empty_store: Path, wandb: WandbServer
) -> None:
    """One run a trial in each home. W&B had nothing when the driver was killed; in the end both
    homes have every report of both sessions, those that Tune repeats from its checkpoint twice. In
    between nobody needs to call sync: MLflow has what was reported, in runs that are KILLED."""
    killed = Killed("driver", tmp_path, wandb, empty_store)
    wandb.fail("POST /files/*/file_stream", times=None, status=503)
    try:
        killed.begin_and_kill(lambda driver: driver.kill())
        wait_until(
            lambda: {run.status for run in trials_in(killed.uri).values()} == {"KILLED"},
            60,
            "the end of the runs in MLflow",
        )
        assert reported_before(killed.uri)
        assert [rows_of(run) for run in wandb.runs] == [[], []]
    finally:
        end_all_of(tmp_path)
        wandb.heal()
    assert_both_homes_have_all(killed.restore(), "driver")
    assert not list(killed.experiment.rglob(KEPT_JOURNAL))


def test_an_experiment_whose_node_died_resumes_the_same_runs(
    tmp_path: Path, empty_store: Path, wandb: WandbServer
) -> None:
    """The replicator and wandb-core are killed with the driver: what they left is delivered by the
    restored session, and both homes have every report."""
    killed = Killed("node", tmp_path, wandb, empty_store)
    killed.begin_and_kill(lambda driver: end_all_of(tmp_path))
    assert {run.status for run in trials_in(killed.uri).values()} == {"RUNNING"}
    left = killed.restore()
    wait_until(
        lambda: not list(killed.experiment.rglob("*.journal")), 60, "the delivery of what was left"
    )
    assert_both_homes_have_all(left, "node")
