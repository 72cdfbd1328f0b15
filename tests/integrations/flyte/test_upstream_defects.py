"""Eighteen defects of the plugins that this one replaces: none of them is here.

Only names that those plugins have are used, so that the tests can be run against them, too; there
each of them fails. The eighteenth, sweeps with more than 20 agents, has its test in
`test_online.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flyte
import pytest

from mlflow_wandb_flyte import WandbSweep, get_wandb_run, wandb_config, wandb_init, wandb_sweep
from tests.integrations.flyte.logged_runs import run_program
from tests.support.mlflow_state import RunState, read_runs
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

env = flyte.TaskEnvironment(name="upstream")
PLACE = {"wandb_project": "proj", "wandb_entity": "team"}


@dataclass
class Seen:
    """What `programs/defects.py` noted, and both homes."""

    said: dict[str, Any]
    server: WandbServer
    mlflow: dict[str, RunState]

    def wandb(self, run_id: str) -> Any:
        (run,) = [run for run in self.server.runs if run.name == run_id]
        return run


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("defects")
    child = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
    with WandbServer(folder / "server") as server:
        child.update(server.env(folder / "client"))
        child["MLFLOW_TRACKING_URI"] = copy_store(empty_store, folder / "mlflow.db")
        child["TMPDIR"] = str(folder)
        said, _ = run_program("defects", child, folder / "client")
        yield Seen(said, server, read_runs(child["MLFLOW_TRACKING_URI"]))


def link(of: Any, **context: str) -> str:
    return str(of.get_link("run", "p", "d", {**PLACE, **context}, "a0", "action", "pod"))


@pytest.mark.slow
def test_01_a_failed_task_does_not_look_successful(seen: Seen) -> None:
    """W&B has exit code 1, MLflow says FAILED."""
    assert seen.wandb(seen.said["1 wandb"]).exit_code == 1
    assert seen.mlflow[seen.said["1 mlflow"]].status == "FAILED"


@pytest.mark.slow
def test_02_override_and_stacking_keep_the_tracking(seen: Seen) -> None:
    """An overridden task has its run; `wandb_init` over `wandb_sweep` still makes the sweep."""
    assert seen.said["2 run"] is True
    assert "No wandb sweep config found" in seen.said["2 stacked"]


def test_03_a_deployed_task_has_its_links() -> None:
    """The environment's task, which is what is deployed, is the decorated one."""

    @wandb_init
    @env.task
    def deployed() -> None: ...

    assert [one.name for one in env.tasks["upstream.deployed"].links] == ["Weights & Biases"]


@pytest.mark.slow
def test_04_a_host_can_be_configured(seen: Seen) -> None:
    """`wandb_config(host=…)` does not reach `wandb.init` as an argument that it does not know."""
    assert seen.said["4"] == "ActionOutputs(o0=None)"


@pytest.mark.slow
def test_05_texts_that_look_like_numbers_stay_texts(seen: Seen) -> None:
    """A project called 123 and the id 1e5."""
    assert ["123", "1e5"] in seen.said["project"]


@pytest.mark.slow
def test_06_a_configured_id_does_not_reach_new_children(seen: Seen) -> None:
    """The parent has it; the child has one of its own, and both have run."""
    assert seen.said["6"] == "ActionOutputs(o0=None)"
    assert seen.said["6 parent"] == "given"
    assert seen.wandb(seen.said["6 child"]).summary["child"] == 1


@pytest.mark.slow
def test_07_offline_is_honoured_in_a_container(seen: Seen) -> None:
    """`WANDB_MODE=offline`: nothing is sent, and MLflow has the run."""
    assert seen.said["7"] == "offline"
    assert "must-not-be-online" not in {run.project.name for run in seen.server.runs}


@pytest.mark.slow
def test_08_a_child_elsewhere_finds_its_parents_run(seen: Seen) -> None:
    """The project and entity that the parent's decorator gave."""
    assert seen.said["8 child"] == seen.said["8 parent"] == "tester/theirs/run8-a"


@pytest.mark.slow
def test_09_a_child_logs_into_its_own_parents_run(seen: Seen) -> None:
    """Not into that of the sibling which opened a run last."""
    assert len(seen.said["9"]) == 2
    assert all(parent == child for parent, child in seen.said["9"])


@pytest.mark.slow
def test_10_wandb_log_works_inside_a_local_task(seen: Seen) -> None:
    """`wandb.run` is the task's run."""
    assert seen.said["10"] is True


@pytest.mark.slow
def test_11_concurrent_siblings_have_their_own_mlflow_runs(seen: Seen) -> None:
    """Each metric is in the run of the task that logged it."""
    assert len(seen.said["11"]) == 3
    for run_id, x in seen.said["11"]:
        points = [(step, float(x)) for step in range(3)]
        assert seen.mlflow[run_id].points("x") == points


@pytest.mark.slow
def test_12_a_terminated_tasks_mlflow_run_is_killed(seen: Seen) -> None:
    """It does not stay RUNNING."""
    assert seen.mlflow[seen.said["12"]].status == "KILLED"


@pytest.mark.slow
def test_13_a_retry_resumes_the_same_runs(seen: Seen) -> None:
    """One MLflow run, and a W&B run with the rows of both attempts."""
    assert len(seen.said["13 mlflow"]) == 2
    assert len(set(seen.said["13 mlflow"])) == 1
    first, second = seen.said["13 wandb"]
    assert first == second
    rows = [line.row for line in seen.wandb(first).history.live]
    assert [row["attempt"] for row in rows] == [1, 2]


@pytest.mark.slow
def test_14_a_download_neither_loses_nor_fails_a_task(seen: Seen) -> None:
    """The decorator's project is asked, pandas or not; what cannot be had is a warning."""
    assert seen.said["14"] == "ActionOutputs(o0=1)"
    assert seen.said["14 failing"] == "ActionOutputs(o0=1)"
    folder = seen.server.directory.parent / "wandb_runs" / seen.said["14 run"]
    assert json.loads((folder / "summary.json").read_text())["x"] == 1
    assert (folder / "metrics_history.json").is_file()


def test_15_links_point_where_the_runs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configured host, the context's mode, the sweep's own project."""
    monkeypatch.setenv("WANDB_BASE_URL", "https://w.example")

    @wandb_init
    @env.task
    def linked() -> None: ...

    @wandb_sweep(project="own", entity="me")
    @env.task
    def swept() -> None: ...

    shown = link(linked.links[0], _wandb_run_id="parent", wandb_run_mode="new")
    assert shown == "https://w.example/team/proj/runs/run-action"
    assert link(swept.links[0]) == "https://w.example/me/own/sweeps"
    assert link(WandbSweep(id="s")) == "https://w.example/team/proj/sweeps/s"


def test_16_a_clustered_environment_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks are distributed: a link a node, and groups."""
    from flyte.clustered import ClusteredTaskEnvironment

    clustered = ClusteredTaskEnvironment(name="clustered", replicas=2, nproc_per_node=2)

    @wandb_init(rank_scope="worker", run_mode="new")
    @clustered.task
    def many() -> None: ...

    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert [link(one).partition("wandb.ai")[2] for one in many.links] == [
        f"/team/proj/groups/run-action-worker-{index}" for index in range(2)
    ]


def test_17_an_api_key_does_not_enter_the_context() -> None:
    """Nor is it in what the context manager or `with_runcontext` are given."""
    config = wandb_config(project="p", settings={"api_key": "s3cret", "quiet": True})
    assert "s3cret" not in json.dumps(dict(config))
    assert "quiet" in json.dumps(dict(config))


def test_outside_of_a_task_there_is_no_run() -> None:
    """The names work without Flyte, as they did."""
    assert get_wandb_run() is None
