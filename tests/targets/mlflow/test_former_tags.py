"""Runs whose tags have the names of earlier versions are found, continued and not doubled."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.core.model import Checkpoint, RunInfo
from mlflow_wandb_plugin.core.protocols import TargetOptions, WritePath
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_state import read_runs
from tests.targets.mlflow.writing import end, points, run_info

WAYS = pytest.mark.parametrize("way", ["sql", "api", "server"])
FORMER_TAGS = {
    "wandb.run_id": "r1",
    "wandb.run_path": "ann/PROJECT/r1",
    "wandb.project": "PROJECT",
    "wandb.entity": "ann",
    "wandb.sync.origin": "backfill",
    "wandb.sync.mapping": "4",
    "wandb.name": "a run",
    "wandb.group": "g",
    "run_group": "g",
    "wandb.job_type": "train",
    "wandb.tags": '["x"]',
    "wandb.tag.x": "true",
    "wandb.config.changed": "1",
    "wandb.exit_code": "0",
    "wandb.sync.losses": "{}",
    "wandb.sync.rewrites": "{}",
    "mine": "1",
}
"""What version 4 of the mapping rules wrote."""
COMPLETE = {
    "wandb.state": "finished",
    "wandb.sync.state": "complete",
    "wandb.sync.position": '{"seg": -1}',
    "wandb.sync.rows": '{"seg": 2}',
}
PARTIAL = {"wandb.sync.state": "partial", "wandb.sync.position": '{"seg": 40}'}
VISIBLE = {
    "wandb.run_id": "r1",
    "wandb.entity": "ann",
    "run_group": "g",
    "wandb.job_type": "train",
    "wandb.tags": '["x"]',
    "wandb.exit_code": "0",
    "wandb.state": "finished",
    "mine": "1",
}
"""What MLflow's UI lists after the run was written again, beside the project."""


def described(project: str, **fields: Any) -> RunInfo:
    known: dict[str, Any] = {
        "project": project, "entity": "ann", "group": "g", "job_type": "train", "tags": ("x",),
        "config": {"lr": 2}, "first_config": {("lr",): 1}, "rows": {"seg": 2},
    }  # fmt: skip
    return run_info(**(known | fields))


def former_run(client: MlflowClient, project: str, more: dict[str, str]) -> str:
    """Create a run as version 4 left it, in an experiment that has been renamed since."""
    tags = {"wandb.sync.experiment": project}
    experiment = client.create_experiment(f"renamed {project}", tags=tags)
    tags = {key: value.replace("PROJECT", project) for key, value in FORMER_TAGS.items()} | more
    run = client.create_run(experiment, 1_000_000, tags, "a run")
    client.log_param(run.info.run_id, "lr", "1")
    client.log_metric(run.info.run_id, "a", 1.0, 1_000_000, 0)
    if "wandb.state" in more:
        client.log_metric(run.info.run_id, "a", 2.0, 1_001_000, 1)
        client.set_terminated(run.info.run_id, "FINISHED", 2_000_000)
    return str(run.info.run_id)


def opened(way: str, uri: str) -> MlflowTarget:
    path: WritePath = "api" if way == "api" else "auto"
    return MlflowTarget(uri, TargetOptions(write_path=path), Backoff(0.0))


@WAYS
def test_a_complete_run_is_found_and_compared(fresh_store: str, server: str, way: str) -> None:
    """It counts as complete, first and in the list of its project; no tag differs."""
    uri = server if way == "server" else fresh_store
    project = f"former-{way}"
    run_id = former_run(MlflowClient(uri), project, COMPLETE)
    target, info = opened(way, uri), described(project)
    for other in ("r1", "other", "r1"):
        twin = target.find(described(project, run_id=other))
        if other == "r1":
            assert twin is not None
            assert (twin.run_id, twin.origin, twin.complete(info)) == (run_id, "backfill", True)
        else:
            assert twin is None
    comparison = target.compare(info, twin)
    comparison.append(points("a", [1.0, 2.0]))
    comparison.update(info)
    comparison.finish(info, complete=True)
    comparison.compare()
    comparison.close()
    told = [difference.what for difference in comparison.differences]
    assert [what for what in told if "tag" in what or "metric" in what] == []


@WAYS
def test_a_partial_run_is_continued_under_the_present_names(
    fresh_store: str, server: str, way: str
) -> None:
    """Its position counts; at the end no former name is left, and no second run is there."""
    uri = server if way == "server" else fresh_store
    project = f"former-partial-{way}"
    client = MlflowClient(uri)
    run_id = former_run(client, project, PARTIAL)
    target, info = opened(way, uri), described(project)
    assert target.experiment_id(info) == client.get_run(run_id).info.experiment_id
    writer = target.open(info, "backfill", target.find(info))
    assert (writer.run_id, dict(writer.position)) == (run_id, {"seg": 40})
    writer.append(points("a", [2.0], first_step=1))
    writer.checkpoint(Checkpoint("seg", 80))
    end(writer, info)
    writer.close()
    (run,) = read_runs(uri, experiments=[writer.experiment_id]).values()
    assert run.points("a") == [(0, 1.0), (1, 2.0)]
    shown = {key: value for key, value in run.tags.items() if not key.startswith("mlflow.")}
    assert shown == VISIBLE | {"wandb.project": project}
    hidden = {key: run.tags[key] for key in run.tags if key.startswith("mlflow.wandb.")}
    assert hidden == {
        "mlflow.wandb.origin": "backfill",
        "mlflow.wandb.state": "complete",
        "mlflow.wandb.position": '{"seg": -1}',
        "mlflow.wandb.rows": '{"seg": 2}',
        "mlflow.wandb.mapping": "5",
        "mlflow.wandb.name": "a run",
        "mlflow.wandb.config_changed": "1",
        "mlflow.wandb.losses": "{}",
        "mlflow.wandb.rewrites": "{}",
    }


@WAYS
def test_a_new_run_is_searched_by_its_hidden_tags(fresh_store: str, server: str, way: str) -> None:
    """MLflow's stores filter by a tag below ``mlflow.`` as by any other."""
    uri = server if way == "server" else fresh_store
    project = f"hidden-{way}"
    target, info = opened(way, uri), described(project)
    writer = target.open(info, "backfill", None)
    end(writer, info)
    writer.close()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(project)
    assert experiment is not None
    assert experiment.tags["mlflow.wandb.experiment"] == project
    found = client.search_runs([experiment.experiment_id], "tags.`mlflow.wandb.state` = 'complete'")
    assert [run.info.run_id for run in found] == [writer.run_id]


def test_a_group_made_by_an_earlier_version_is_joined(fresh_store: str) -> None:
    """The parent run of a group is found by its former tag."""
    client, target = MlflowClient(fresh_store), opened("sql", fresh_store)
    info = described("grouped", config={"mlflow_parent_group": "folds"}, first_config={})
    experiment = target.experiment_id(info)
    parent = client.create_run(experiment, 1, {"wandb.parent_of_group": "folds"}, "folds")
    writer = target.open(info, "backfill", None)
    end(writer, info)
    writer.close()
    tags = client.get_run(writer.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parent.info.run_id


def test_tags_of_a_user_with_such_names_stay(fresh_store: str) -> None:
    """A run that has no identity of ours is not cleaned when it is given to us to write."""
    client = MlflowClient(fresh_store)
    given = client.create_run("0", tags={"wandb.name": "of the user", "wandb.group": "theirs"})
    config = {"mlflow_run_id": given.info.run_id, "mlflow_run_given": True}
    info = described("given", config=config, first_config={})
    target = MlflowTarget(fresh_store, TargetOptions(adopt_dual=True), Backoff(0.0))
    writer = target.open(info, "dual", target.find(info))
    end(writer, info)
    writer.close()
    assert writer.run_id == given.info.run_id
    tags = client.get_run(writer.run_id).data.tags
    assert (tags["wandb.name"], tags["wandb.group"]) == ("of the user", "theirs")
