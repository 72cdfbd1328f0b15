"""Tasks in containers with a W&B server: shared runs, retries, downloads, sweeps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.flyte.logged_runs import run_program
from tests.support.mlflow_state import RunState, read_runs
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

pytestmark = pytest.mark.slow


@dataclass
class Online:
    """What `programs/online.py` left behind."""

    said: dict[str, Any]
    output: str
    server: WandbServer
    mlflow: dict[str, RunState]

    def rows(self, path: str) -> list[dict[str, Any]]:
        return [line.row for line in self.server.run(path).history.live]


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Online]:
    folder = tmp_path_factory.mktemp("online")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
    with WandbServer(folder / "server") as server:
        env.update(server.env(folder / "client"))
        env["MLFLOW_TRACKING_URI"] = copy_store(empty_store, folder / "mlflow.db")
        env["TMPDIR"] = str(folder)
        said, output = run_program("online", env, folder / "client")
        yield Online(said, output, server, read_runs(env["MLFLOW_TRACKING_URI"]))


def values(state: RunState, key: str) -> list[float]:
    return sorted(value for value, _, _ in state.metrics[key])


def test_a_child_in_another_container_logs_into_its_parents_run(online: Online) -> None:
    """One run in each home, where the parent's decorator put it, ended by the parent."""
    assert (online.said["parent"], online.said["child"]) == ("", "")
    run = online.server.run("tester/family/run1-a")
    assert {key: run.summary[key] for key in ("before", "by_child", "after")} == {
        "before": 1, "by_child": 2, "after": 3
    }  # fmt: skip
    assert (run.state, run.exit_code) == ("finished", 0)
    assert list(online.server.project("family").runs) == ["run1-a"]
    twin = online.mlflow["run1-a"]
    assert [values(twin, key) for key in ("before", "by_child", "after")] == [[1], [2], [3]]
    assert twin.status == "FINISHED"


def test_the_contexts_project_and_id_reach_a_container(online: Online) -> None:
    """The decorator's project comes before the context's; the id is the context's. A server that
    can be had is used, whatever `on_backend_error` says."""
    assert online.said["context"] == ""
    assert online.server.run("tester/own/named").summary["x"] == 1
    assert values(online.mlflow["named"], "x") == [1]


def test_a_retry_in_a_new_container_resumes_the_same_runs(online: Online) -> None:
    """The first attempt's rows are still there; the run ends as the last attempt ends."""
    assert online.said["attempts"] == ["failed", ""]
    run = online.server.run("tester/retried/run3-a")
    assert [row["attempt"] for row in online.rows("tester/retried/run3-a")] == [0, 1]
    assert run.state == "finished"
    twin = online.mlflow["run3-a"]
    assert (values(twin, "attempt"), twin.status) == ([0, 1], "FINISHED")


def test_a_downloaded_run_has_its_complete_history(online: Online) -> None:
    """All rows, not a sample; the summary, and the run's files."""
    assert online.said["downloads"] == ""
    folder = Path(online.said["folder"])
    history = json.loads((folder / "metrics_history.json").read_text())
    assert [row["x"] for row in history] == list(range(600))
    assert json.loads((folder / "summary.json").read_text())["x"] == 599
    assert (folder / "saved.txt").read_text() == "hello"


def test_download_logs_delivers_the_files_as_a_trace(online: Online) -> None:
    """Of a task that succeeds, of one that fails, and of a sweep, each run's in its folder."""
    assert online.said["failed"] == "failed"
    traces = online.said["traces"]
    assert {trace["error"] for trace in traces} == {""}
    succeeded, failed, sweep = (Path(trace["folder"]) for trace in traces)
    assert {"saved.txt", "summary.json", "metrics_history.json"} <= _names(succeeded)
    assert {"summary.json", "metrics_history.json"} <= _names(failed)
    assert (succeeded.name, failed.name) == ("run4-a", "run7-a")
    trials = {run.name for run in online.server.sweep(f"tuned/{online.said['sweep']}").runs}
    assert _names(sweep) == trials
    assert all((sweep / name / "summary.json").is_file() for name in trials)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_download_logs_warns_and_does_not_fail_the_task(online: Online) -> None:
    """An offline run has no logs in W&B."""
    assert online.said["offline"] == ""
    assert "run run5-a is offline" in " ".join(online.output.split())
    assert "gone" not in {run.project.name for run in online.server.runs}


def test_any_number_of_agents_works_on_a_sweep(online: Online) -> None:
    """22 agents, a trial each: all trials in W&B, and below one run in MLflow."""
    assert (online.said["swept"], online.said["agents"]) == ("", list(range(22)))
    sweep = online.server.sweep(f"tuned/{online.said['sweep']}")
    trials = {run.name: run for run in sweep.runs}
    assert len(sweep.agents) == len(trials) == 22
    assert {run.state for run in trials.values()} == {"finished"}
    (parent,) = [run for run in online.mlflow.values() if "wandb.sweep" in run.tags]
    assert parent.tags["wandb.sweep"] == online.said["sweep"]
    for name, run in trials.items():
        assert values(online.mlflow[name], "loss") == [run.summary["loss"]]
        assert run.summary["loss"] == pytest.approx(run.values["lr"] * 10)
        assert online.mlflow[name].tags["mlflow.parentRunId"] == parent.run_id


def test_a_sweeps_runs_are_downloaded_each_into_a_folder(online: Online) -> None:
    """Named by the run's id."""
    folders = [Path(folder) for folder in online.said["sweep folders"]]
    sweep = online.server.sweep(f"tuned/{online.said['sweep']}")
    assert {folder.name for folder in folders} == {run.name for run in sweep.runs}
    assert all((folder / "metrics_history.json").is_file() for folder in folders)
