"""Tune on a real Ray: a restored experiment and a population, in both homes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.integrations.ray.conftest import Left, rows_of
from tests.integrations.ray.programs.cluster import told

pytestmark = [pytest.mark.slow, pytest.mark.ray_cluster, pytest.mark.timeout(400)]
STEPS = "training_iteration"
KEPT = {
    "score", "nested/step", STEPS, "time_this_iter_s", "time_total_s", "timestamp",
    "time_since_restore", "iterations_since_restore",
}  # fmt: skip


@pytest.fixture(scope="module")
def left(program: Callable[..., Left]) -> Left:
    return program("tuning", "restore", "population", timeout=360)


@pytest.mark.parametrize("name", ["restore", "population"])
def test_each_trial_is_one_run_in_each_backend(left: Left, name: str) -> None:
    """Every result is there once, in order, at its training iteration, in both homes; after a
    restore, too. All runs are finished."""
    runs = {run.display_name.removeprefix("train_"): run for run in left.wandb(name)}
    reported = left.told(name)
    assert left.said[name]["errors"] == ["", ""]
    assert set(runs) == {line["trial"] for line in reported}
    for trial, run in runs.items():
        twin = left.mlflow[run.name]
        mine = [line for line in reported if line["trial"] == trial]
        logged = rows_of(run)
        assert [row["score"] for row in logged] == [line["score"] for line in mine]
        steps = [line["nested"]["step"] for line in mine]
        assert [row["nested/step"] for row in logged] == steps
        assert [row[STEPS] for row in logged] == [1, 2, 3, 4]
        assert [step for step, _ in twin.points("score")] == [1, 2, 3, 4]
        assert twin.points("score") == [(row[STEPS], row["score"]) for row in logged]
        assert (run.state, twin.status) == ("finished", "FINISHED")
        assert twin.tags["mlflow.wandb.state"] == "complete"


@pytest.mark.parametrize("name", ["restore", "population"])
def test_trials_stand_together(left: Left, name: str) -> None:
    """They are one group in W&B and stand below one run in MLflow, restored or not."""
    runs = left.wandb(name)
    assert {run.group for run in runs} == {name}
    (parent,) = {left.mlflow[run.name].tags["mlflow.parentRunId"] for run in runs}
    assert left.mlflow[parent].name == name
    (experiment,) = {run.values["mlflow_experiment_id"] for run in runs}
    from mlflow import MlflowClient

    assert MlflowClient(left.uri).get_experiment(experiment).name == f"of {name}"


@pytest.mark.parametrize("name", ["restore", "population"])
def test_results_have_the_keys_of_rays_own_callback(left: Left, name: str) -> None:
    """Process ids, hosts, dates and copies of the config are not among the metrics."""
    for run in left.wandb(name):
        assert {key for row in rows_of(run) for key in row} == KEPT
        own = {key for key in left.mlflow[run.name].metrics if not key.startswith("system/")}
        assert own == KEPT
    assert "Error logging" not in left.output


def test_the_restored_trial_went_on(left: Left) -> None:
    """The trial that failed at its third iteration has all four, two from before the restore."""
    reported = [line for line in left.told("restore") if line["lr"] == 2.0]
    assert [line["nested"]["step"] for line in reported] == [0, 1, 2, 3]


def test_a_param_that_changes_is_no_error(left: Left) -> None:
    """MLflow keeps each trial's first value, W&B's config and MLflow's file of it the last."""
    changed = 0
    started = told(left.work / "population.started")
    for run in left.wandb("population"):
        trial = run.display_name.removeprefix("train_")
        rates = [line["lr"] for line in started if line["trial"] == trial]
        twin = left.mlflow[run.name]
        assert twin.params["lr"] == str(rates[0])
        file = left.read / twin.run_id / "wandb" / "config.json"
        assert json.loads(file.read_text())["lr"] == run.values["lr"]
        if len(set(rates)) > 1:
            changed += 1
            assert run.values["lr"] == rates[-1]
    assert changed


def test_checkpoints_are_artifacts(left: Left) -> None:
    """Each checkpoint that Tune kept is a version in W&B, with its file, and in MLflow. Tune keeps
    none that a trial reports in the moment when it is taken over, so there can be fewer than
    reports."""
    for run in left.wandb("population"):
        twin = left.mlflow[run.name]
        kept = left.said["population"]["kept"][run.display_name.removeprefix("train_")]
        assert len(kept) >= 2
        versions = {}
        for artifact in run.logged_artifacts:
            assert artifact.manifest is not None
            metadata = json.loads(artifact.metadata or "{}")
            manifest = json.loads(artifact.manifest.path.read_bytes())["contents"]
            versions[metadata[STEPS]] = set(manifest)
        assert sorted(versions) == sorted(kept)
        assert all("state.json" in files for files in versions.values())
        root = left.read / twin.run_id / "wandb" / "artifacts"
        saved = [json.loads(file.read_text())["next"] for file in root.rglob("state.json")]
        assert sorted(saved) == sorted(kept)
