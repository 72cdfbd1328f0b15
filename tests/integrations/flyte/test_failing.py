"""A task that fails, is cancelled or retried, and its runs in both homes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integrations.flyte.logged_runs import LoggedRuns, read_logged_runs, run_program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def failing(offline: Callable[[str], dict[str, str]]) -> LoggedRuns:
    """What `programs/failing.py` left behind."""
    env = offline("failing")
    said, output = run_program("failing", env, Path(env["WANDB_DIR"]))
    return read_logged_runs(env, said, output)


@pytest.mark.parametrize("name", ["fails", "fails sync"])
def test_a_failed_task_has_failed_runs(failing: LoggedRuns, name: str) -> None:
    """W&B exits with 1, MLflow is FAILED, and the task's own error reaches the caller."""
    (run_id,) = failing.said["ids"][name]
    assert failing.wandb[run_id].info.exit_code == 1
    assert failing.mlflow[run_id].status == "FAILED"
    assert failing.values(run_id, "x") == [1]
    assert failing.said["said"][name.replace(" ", "_")] == "no"


def test_a_failed_task_has_a_failed_mlflow_run(failing: LoggedRuns) -> None:
    """Born in MLflow, the same."""
    (run_id,) = failing.said["ids"]["fails in MLflow"]
    assert failing.mlflow[run_id].status == "FAILED"
    assert failing.wandb[run_id].info.exit_code == 1


def test_a_cancelled_task_has_killed_runs(failing: LoggedRuns) -> None:
    """Being cancelled is no failure of the task: W&B shows killed, MLflow KILLED."""
    (run_id,) = failing.said["ids"]["cancelled"]
    assert failing.wandb[run_id].info.state == "killed"
    assert failing.mlflow[run_id].status == "KILLED"
    (run_id,) = failing.said["ids"]["cancelled in MLflow"]
    assert failing.mlflow[run_id].status == "KILLED"
    assert failing.wandb[run_id].info.exit_code == 255


def test_a_retry_resumes_the_same_runs(failing: LoggedRuns) -> None:
    """One id for all attempts, in MLflow one run with all their points, FINISHED in the end."""
    run_id, *again = failing.said["ids"]["retried"]
    assert again == [run_id, run_id]
    assert failing.wandb[run_id].states == ["failed", "failed", "finished"]
    assert failing.mlflow[run_id].status == "FINISHED"
    assert failing.values(run_id, "attempt") == [1, 2, 3]


def test_a_retry_resumes_the_same_mlflow_run(failing: LoggedRuns) -> None:
    """Born in MLflow, the same."""
    first, second = failing.said["ids"]["retried in MLflow"]
    assert first == second
    assert failing.mlflow[first].status == "FINISHED"
    assert failing.mlflow[first].points("attempt") == [(1, 1.0), (2, 2.0)]
    assert failing.values(first, "attempt") == [1, 2]


def test_a_childs_failure_is_the_childs(failing: LoggedRuns) -> None:
    """A parent that catches it succeeds."""
    (child,) = failing.said["ids"]["child"]
    (parent,) = failing.said["ids"]["catches"]
    assert (failing.mlflow[child].status, failing.mlflow[parent].status) == ("FAILED", "FINISHED")
    assert failing.said["said"]["catches"] == "succeeded"
