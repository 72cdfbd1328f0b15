"""``@dual_write`` under ``@ray.remote``: a run for each call, in both homes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integrations.ray.conftest import Left, assert_same_points, rows_of
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.ray_cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def left(program: Callable[..., Left]) -> Left:
    return program("tasks")


def test_each_call_of_a_task_is_a_run(left: Left) -> None:
    """The task sees its run, and its result comes back."""
    runs = {run.name: run for run in left.wandb("task")}
    assert sorted(runs) == sorted(left.said["task"])
    logged = {run_id: rows_of(run) for run_id, run in runs.items()}
    assert logged == {run_id: [{"index": n}] for n, run_id in enumerate(left.said["task"])}
    for run_id, run in runs.items():
        twin = left.mlflow[run_id]
        assert_same_points(run, twin)
        assert (run.state, twin.status) == ("finished", "FINISHED")
        assert list(run.tags) == ["plain"]


def test_each_call_of_an_actor_is_a_run(left: Left) -> None:
    """With the actor's state, and in the experiment that the decorator names."""
    first, second = left.said["actor"]
    for run in left.wandb("actor"):
        assert_same_points(run, left.mlflow[run.name])
        call = {first: 1, second: 2}[run.name]
        assert rows_of(run) == [{"index": n, "call": call} for n in range(call + 1)]
    from mlflow import MlflowClient

    client = MlflowClient(left.uri)
    (experiment,) = {run.values["mlflow_experiment_id"] for run in left.wandb("actor")}
    assert client.get_experiment(experiment).name == "of an actor"


@pytest.mark.parametrize(
    ("project", "rows"), [("generator", [0, 1, 2]), ("async-actor", [1]), ("fails", [0])]
)
def test_generators_coroutines_and_failures(left: Left, project: str, rows: list[int]) -> None:
    """Each is one run; the one that raises is failed in both homes."""
    run, twin = left.only(project)
    assert left.said[project]
    assert [row["index"] for row in rows_of(run)] == rows
    assert_same_points(run, twin)
    ended = ("failed", "FAILED") if project == "fails" else ("finished", "FINISHED")
    assert (run.state, twin.status) == ended


def test_a_task_that_holds_the_drop_in_is_replicated(left: Left) -> None:
    """The worker imports nothing of the package but what the function brings along."""
    run, twin = left.only("drop-in")
    assert run.name == left.said["drop-in"]
    assert rows_of(run) == [{"index": 7}]
    assert_same_points(run, twin)


def test_a_task_that_logs_with_mlflow_is_mirrored(left: Left) -> None:
    """`wandb+` before the tracking URI, in the worker: W&B has the run of the same id."""
    wait_until(lambda: left.wandb("mirrored") != [], 120, "the run in W&B")
    run, twin = left.only("mirrored")
    assert run.name == left.said["mirrored"]
    wait_until(lambda: run.state == "finished", 120, "the end of the run in W&B")
    assert twin.points("index") == [(3, 9.0)]
    assert [row["index"] for row in rows_of(run)] == [9.0]


def test_a_task_that_imports_wandb_is_replicated_by_rays_setup_hook(
    program: Callable[..., Left],
) -> None:
    """The hook names `autolog`, as docs/ray.md has it; the function need not know of it."""
    left = program("tasks", "hook")
    run, twin = left.only("by-hook")
    assert rows_of(run) == [{"index": 8}]
    assert_same_points(run, twin)
