"""What MLflow's calls log in a task is in both homes, once, whether or not MLflow answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.integrations.flyte.logged_runs import run_program
from tests.support.commands import mlflow_wandb
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import free_port
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

pytestmark = pytest.mark.slow

TASKS = ("tracked", "both", "plain", "joined", "parent", "fitted", "fitted_as_told")


@dataclass
class Seen:
    """What `programs/mlflow_calls.py` left behind."""

    said: dict[str, Any]
    server: WandbServer
    uri: str
    mlflow: dict[str, RunState]

    def experiment(self, run_id: str) -> str:
        client = MlflowClient(self.uri)
        found = client.get_run(self.mlflow[run_id].run_id)
        return str(client.get_experiment(found.info.experiment_id).name)

    def rows(self, path: str) -> list[dict[str, Any]]:
        """The rows of a W&B run, without W&B's own columns."""
        lines = self.server.run(path).history.live
        shown = [{k: v for k, v in line.row.items() if not k.startswith("_")} for line in lines]
        return sorted(shown, key=sorted)


def environment(server: WandbServer, folder: Path, uri: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
    return {**env, **server.env(folder / "client"), "MLFLOW_TRACKING_URI": uri}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("calls")
    uri = copy_store(empty_store, folder / "mlflow.db")
    with WandbServer(folder / "server") as server:
        env = environment(server, folder, uri)
        said, _ = run_program("mlflow_calls", env, folder / "client", *TASKS)
        yield Seen(said, server, uri, read_runs(uri, folder / "files"))


@pytest.mark.parametrize("task", ["tracked", "both", "plain"])
def test_both_apis_reach_both_homes(seen: Seen, task: str) -> None:
    """Under `track`, also of a plain function, and under `wandb_init` with `mlflow_run`: numbers,
    params, tags and files."""
    assert seen.said[f"{task} error"] == ""
    assert seen.rows(f"tester/{task}/{task}-a") == [
        {"by_mlflow": 3, "mlflow_step": 7}, {"loss": 0.5}
    ]  # fmt: skip
    run = seen.server.run(f"tester/{task}/{task}-a")
    assert run.values["depth"] == 3
    assert "team:vision" in run.tags
    assert "artifacts/note.txt" in run.files
    twin = seen.mlflow[f"{task}-a"]
    assert (twin.points("loss"), twin.points("by_mlflow")) == ([(0, 0.5)], [(7, 3.0)])
    assert (twin.params["depth"], twin.tags["team"], twin.status) == ("3", "vision", "FINISHED")
    assert "note.txt" in twin.artifacts


@pytest.mark.parametrize("task", ["fitted", "fitted_as_told"])
def test_autologging_reaches_both_homes(seen: Seen, task: str) -> None:
    """Params and metrics of a fitted model, whether the body or `mlflow_run` switches it on."""
    assert seen.said[f"{task} error"] == ""
    (wandb_run,) = [run for run in seen.server.runs if run.project.name == task]
    assert wandb_run.values["positive"] is True
    twin = seen.mlflow[wandb_run.name]
    assert (twin.params["positive"], twin.status) == ("True", "FINISHED")
    (point,) = twin.points("training_score")
    assert point == (0, pytest.approx(1.0))
    rows = [row for row in seen.rows(f"tester/{task}/{wandb_run.name}") if "training_score" in row]
    assert [(row["mlflow_step"], row["training_score"]) for row in rows] == [point]


def test_arguments_of_mlflow_run_reach_the_replica(seen: Seen) -> None:
    """Beside `wandb_init` its experiment, name and tags are the one run's."""
    twin = seen.mlflow["both-a"]
    assert (seen.experiment("both-a"), twin.name) == ("named by mlflow_run", "mine")
    assert twin.tags["by"] == "mlflow_run"
    assert seen.server.run("tester/both/both-a").display_name == "mine"


def test_a_child_under_track_joins_a_run_of_wandb_init(seen: Seen) -> None:
    """The replica becomes MLflow's active run then, and MLflow's calls reach W&B."""
    run_id, mlflow_id = seen.said["joined"]
    twin = seen.mlflow[run_id]
    assert twin.run_id == mlflow_id
    assert twin.points("by_child") == [(2, 1.0)]
    assert {"by_child": 1, "mlflow_step": 2} in seen.rows(f"tester/joined/{run_id}")


def test_a_nested_child_is_in_its_parents_experiment(seen: Seen) -> None:
    """MLflow shows a child below its parent only there. An MLflow that can be had is used, whatever
    `on_backend_error` says."""
    parent, child = seen.said["parent"]
    assert seen.mlflow[child].tags["mlflow.parentRunId"] == parent
    assert [seen.experiment(run_id) for run_id in (parent, child)] == ["parents", "parents"]


def test_an_mlflow_that_is_away_fails_no_task(tmp_path: Path, empty_store: Path) -> None:
    """`wandb_init` with `mlflow_run`: one W&B run, and once MLflow can be had one MLflow run, with
    what MLflow's calls logged. `mlflow_run` alone, told to warn: it is dropped, with a warning."""
    away = f"http://127.0.0.1:{free_port()}"
    with WandbServer(tmp_path / "server") as server:
        env = environment(server, tmp_path, away)
        env |= {"MLFLOW_WANDB_INIT_TIMEOUT": "1", "MLFLOW_WANDB_FINISH_TIMEOUT": "1"}
        env |= {"MLFLOW_WANDB_LINGER": "0"}
        tasks = ("mlflow_is_away", "mlflow_is_away_alone")
        said, output = run_program("mlflow_calls", env, tmp_path / "client", *tasks)
        assert (said["away"], said["alone"]) == (True, "ran")
        assert (said["mlflow_is_away error"], said["mlflow_is_away_alone error"]) == ("", "")
        assert "MLflow cannot be had" in output
        assert [run.name for run in server.runs] == ["mlflow-is-away-a"]
        there = copy_store(empty_store, tmp_path / "mlflow.db")
        (folder,) = (tmp_path / "client").rglob("run-*-mlflow-is-away-a-a")
        done = mlflow_wandb("backfill", str(folder), "--to", there, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    (state,) = read_runs(there, tmp_path / "files").values()
    assert (state.points("loss"), state.points("by_mlflow")) == ([(0, 0.5)], [(7, 3.0)])
    assert "note.txt" in state.artifacts
