"""Tasks under `flyte run --local`: what they log is in both homes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integrations.flyte.logged_runs import LoggedRuns, read_logged_runs, run_program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def local(offline: Callable[[str], dict[str, str]]) -> LoggedRuns:
    """What `programs/local.py` left behind."""
    env = offline("local")
    said, output = run_program("local", env, Path(env["WANDB_DIR"]))
    return read_logged_runs(env, said, output)


def test_a_child_shares_its_parents_run_and_a_new_one_has_its_own(local: LoggedRuns) -> None:
    """Auto, shared and traced calls log into the parent's run, `new` into one of its own."""
    for family in ("family", "sync family"):
        parent, *shared, own = local.said[family]
        assert set(shared) == {parent}
        assert own != parent
    parent, *_, own = local.said["family"]
    logged = {"before": 1, "shared": 2, "only_shared": 3, "traced": 4, "after": 6}
    assert {key: local.values(parent, key) for key in logged} == {
        key: [value] for key, value in logged.items()
    }
    assert local.values(own, "own") == [5]
    assert local.wandb[own].info.project == "own"
    assert local.mlflow[parent].params == {"lr": "0.1"}


def test_every_run_ends_as_finished_in_both_backends(local: LoggedRuns) -> None:
    """No run is left open by a task that succeeded."""
    assert {run.info.state for run in local.wandb.values()} == {"finished"}
    assert {run.status for run in local.mlflow.values()} == {"FINISHED"}


def test_ids_are_the_runs_and_the_actions_names(local: LoggedRuns) -> None:
    """Run ids are made of the Flyte run's name and the action's."""
    parent, *_, own = local.said["family"]
    assert own.rpartition("-")[0] == parent.rpartition("-")[0]
    assert own.rpartition("-")[2] != parent.rpartition("-")[2]


def test_concurrent_siblings_never_mix(local: LoggedRuns) -> None:
    """`wandb.log` and `mlflow.log_metric` of tasks on one event loop reach their own runs."""
    for run_id, mlflow_id, x in local.said["siblings"]["track"]:
        assert local.values(run_id, "mine") == 5 * [float(x)]
        assert local.mlflow[run_id].run_id == mlflow_id
        assert [value for _, value in local.mlflow[run_id].points("also")] == 5 * [float(x)]
    for mlflow_id, x in local.said["siblings"]["mlflow"]:
        assert [value for _, value in local.mlflow[mlflow_id].points("mine")] == 5 * [float(x)]


def test_a_run_that_is_born_in_mlflow_is_in_wandb(local: LoggedRuns) -> None:
    """`mlflow_run` alone: when the task is over, W&B has a run of the same id, its project the
    experiment, with the same points, name and end."""
    for mlflow_id, x in local.said["siblings"]["mlflow"]:
        assert local.values(mlflow_id, "mine") == 5 * [float(x)]
        twin, there = local.mlflow[mlflow_id], local.wandb[mlflow_id].info
        assert (there.project, there.name) == ("born-in-mlflow", twin.name)
        assert (there.state, twin.status) == ("finished", "FINISHED")


def test_track_makes_the_replica_mlflows_active_run(local: LoggedRuns) -> None:
    """MLflow's calls, and those of an MLflow child, land in the W&B run's replica."""
    run_id, mlflow_id, by_child, below = local.said["tracked"]
    twin = local.mlflow[run_id]
    assert twin.run_id == mlflow_id == by_child
    assert local.values(run_id, "loss") == [0.5]
    assert twin.points("by_mlflow") == [(0, 3.0)]
    assert twin.points("by_child") == [(0, 7.0)]
    assert twin.tags["flyte.action_name"] in run_id
    assert twin.tags["wandb.tags"] == '["a"]'
    assert local.mlflow[below].tags["mlflow.parentRunId"] == mlflow_id
    assert local.wandb[below].info.group == run_id


def test_both_decorators_on_a_task_make_one_run(local: LoggedRuns) -> None:
    """`mlflow_run` over `wandb_init`: its run is the replica, and its tags are on it."""
    run_id, mlflow_id = local.said["both decorators"]
    twin = local.mlflow[run_id]
    assert twin.run_id == mlflow_id
    assert twin.tags["team"] == "ml"
    assert local.values(run_id, "loss") == [0.5]
    assert twin.points("by_mlflow") == [(0, 3.0)]


def test_mlflow_children_share_or_nest(local: LoggedRuns) -> None:
    """An auto child logs into the parent's run, a nested one has its own below it."""
    parent, child, nested = local.said["mlflow family"]
    assert parent == child
    run = local.mlflow[parent]
    assert {key: run.points(key) for key in ("parent", "by_child", "still_parent")} == {
        "parent": [(0, 1.0)], "by_child": [(0, 7.0)], "still_parent": [(0, 2.0)]
    }  # fmt: skip
    assert run.tags["who"] == "me"
    assert run.name == f"{run.tags['flyte.run_name']}-{run.tags['flyte.action_name']}"
    assert local.mlflow[nested].tags["mlflow.parentRunId"] == parent


def test_a_decorator_takes_precedence_over_the_context(local: LoggedRuns) -> None:
    """The context decides what the decorator leaves open."""
    assert local.said["by context"] == ["my-own-id", "context"]
    assert local.said["by decorator"][1] == "decorator"


def test_a_with_block_configures_the_tasks_inside_it(local: LoggedRuns) -> None:
    """Inside it its configuration is in force, after it the one before."""
    said = local.said["with"]
    run_id, project = said["inside"]
    assert (project, said["context"], said["after"]) == ("inside", ["t"], "outside")
    assert local.mlflow[run_id].params["deep.a"] == "1"


def test_an_overridden_task_is_still_tracked(local: LoggedRuns) -> None:
    """`.override()` gives a task whose run is in both homes."""
    assert local.values(local.said["override"], "x") == [1]
    assert local.wandb[local.said["override"]].info.project == "overridden"


def test_a_plain_function_has_a_run_outside_of_flyte(local: LoggedRuns) -> None:
    """Sync or async, as a sweep's objective; replicated like every run."""
    for x, run_id in enumerate(local.said["plain"], 1):
        assert local.values(run_id, "x") == [x]


def test_what_is_not_possible_is_an_error(local: LoggedRuns) -> None:
    """`shared` without a parent, and a decorated trace, fail with the reason."""
    assert "no parent run ID found" in local.said["no parent"]
    assert "cannot be applied to traces" in local.said["trace"]


def test_nothing_is_left_behind_in_the_process(local: LoggedRuns) -> None:
    """After the last task `wandb.run` is None, as before the first."""
    assert local.said["outside"] == [True, "None"]
