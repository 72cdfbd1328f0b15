"""Ray Train on two real workers: deaths, restarts and retries, in both homes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integrations.ray.conftest import Left, assert_same_points, rows_of

pytestmark = [pytest.mark.slow, pytest.mark.ray_cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def dying(program: Callable[..., Left]) -> Left:
    return program("train", "worker-dies", "rank-zero-dies", "retries-spent", timeout=560)


@pytest.fixture(scope="module")
def others(program: Callable[..., Left]) -> Left:
    return program("train", "in-worker", "every-rank", "gloo", "no:home", timeout=560)


def row_of(told: dict[str, Any]) -> dict[str, Any]:
    return {"loss": told["loss"], "at": told["at"]}


@pytest.mark.parametrize("name", ["worker-dies", "rank-zero-dies"])
def test_a_restart_resumes_the_same_runs(dying: Left, name: str) -> None:
    """One run in each home has what the controller received of both attempts, each report once and
    in order; it is finished."""
    run, twin = dying.only(name)
    assert dying.said[name] == "finished"
    told = dying.told(name)
    first = [row_of(line) for line in told if line["first"]]
    second = [row_of(line) for line in told if not line["first"]]
    # The rank that lives may be at its third report already, which then never is one.
    assert len(first) in (2, 3)
    assert len(second) == 4
    # What the controller has not polled when a worker dies is lost with the worker.
    received = rows_of(run)
    assert received[-4:] == second
    assert received[:-4] == first[: len(received) - 4]
    assert_same_points(run, twin)
    assert (run.state, twin.status) == ("finished", "FINISHED")
    assert twin.tags["mlflow.wandb.state"] == "complete"


def test_a_training_whose_retries_are_spent_is_failed(dying: Left) -> None:
    """Both attempts' reports are in one run, which is FAILED; the user's error is Ray's own."""
    run, twin = dying.only("retries-spent")
    assert dying.said["retries-spent"] == "WorkerGroupError"
    assert (run.state, twin.status) == ("failed", "FAILED")
    told = [row_of(line) for line in dying.told("retries-spent")]
    received = rows_of(run)
    assert received
    assert [row for row in received if row not in told] == []
    assert len(received) <= len(told)
    assert_same_points(run, twin)


@pytest.mark.parametrize("name", ["worker-dies", "retries-spent", "in-worker"])
def test_no_secret_of_the_config_is_shown(dying: Left, others: Left, name: str) -> None:
    """The training's config is in both homes, its key is not."""
    run, twin = (others if name == "in-worker" else dying).only(name)
    assert run.values["api_key"] == twin.params["api_key"] == "***"
    assert run.values["told"] == twin.params["told"]


def test_setup_dual_resumes_after_rank_zero_was_killed(others: Left) -> None:
    """Both attempts log into one run: its id is the same in each. All rows of both are in both
    homes, in order and at the same steps, although W&B had none of the first attempt's when its
    worker was killed. The worker's end has ended the run, which nobody else did."""
    run, twin = others.only("in-worker")
    told = others.told("in-worker")
    assert {line["id"] for line in told} == {run.name}
    assert [line["first"] for line in told] == [True] * 2 + [False] * 4
    assert [line["resumed_at"] for line in told] == [0] * 6
    assert rows_of(run) == [row_of(line) for line in told]
    assert_same_points(run, twin)
    assert (run.state, twin.status) == ("finished", "FINISHED")


def test_each_rank_may_have_a_run_of_its_own(others: Left) -> None:
    """They are one group in W&B and stand below one run in MLflow."""
    runs = others.wandb("every-rank")
    told = {line["id"]: line["rank"] for line in others.told("every-rank")}
    assert {run.name: rows_of(run) for run in runs} == {
        run_id: [{"rank": rank}] for run_id, rank in told.items()
    }
    assert sorted(told.values()) == [0, 1]
    twins = [others.mlflow[run.name] for run in runs]
    (group,) = {run.group for run in runs}
    (parent,) = {twin.tags["mlflow.parentRunId"] for twin in twins}
    assert others.mlflow[parent].name == group


def test_torch_trainer_with_gloo(others: Left) -> None:
    """What TorchTrainer's two workers report is in both homes."""
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    run, twin = others.only("gloo")
    assert others.said["gloo"] == "finished"
    assert rows_of(run) == [row_of(line) for line in others.told("gloo")]
    assert [row["loss"] for row in rows_of(run)] == [1.0, 3.0, 5.0, 7.0]
    assert_same_points(run, twin)


def test_a_training_that_reaches_no_home_ends_with_an_error(others: Left) -> None:
    """W&B refuses the project's name: what workers report is in neither home, and the driver is
    told so by Ray's own error."""
    assert others.said["no:home"] == "ControllerError"
    assert others.wandb("no:home") == []
