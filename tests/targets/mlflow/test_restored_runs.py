"""Runs that were created in MLflow and come back from W&B."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    Item,
    RowObjects,
    RunInfo,
    Selection,
    Series,
    Size,
)
from mlflow_wandb_plugin.core.protocols import Source
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget

CHILD, PARENT = "c" * 32, "a" * 32
T = 1_700_000_000_000


def mirrored(run_id: str, project: str = "vision", **section: Any) -> RunInfo:
    section = {"status": "FINISHED", "start_time": T, "end_time": T + 9, **section}
    return RunInfo(
        run_id, project, "team", name=run_id[0], segments=("server",), state="finished",
        started_ms=T + 50, ended_ms=T + 60, rows={"server": 2},
        config={"mlflow_run_id": run_id, "mlflow": section},
    )  # fmt: skip


class Mirrored(Source):
    """W&B runs, each with two rows of numbers and a text."""

    def __init__(self, *infos: RunInfo) -> None:
        self._infos = infos

    def runs(self, selection: Selection) -> Iterator[RunInfo]:
        yield from self._infos

    def size(self, run: RunInfo) -> Size:
        return Size()

    def read(self, run: RunInfo, since: Mapping[str, int]) -> Iterator[Item]:
        yield Series(("loss",), [0, 1], [T, T + 1], [0.5, 0.25])
        yield Series(("mlflow_step",), [0, 1], [T, T + 1], [7.0, -3.0])
        yield Series(("cpu",), [0], [T], [4.0], "system")
        yield RowObjects(1, T + 1, {("text",): "hello"})
        yield Checkpoint("server", 2)
        yield run


def carried(uri: str, *infos: RunInfo) -> dict[str, Run]:
    """Backfill runs; what MLflow has then, by W&B's id."""
    outcomes = list(backfill(Mirrored(*infos), MlflowTarget(uri), Selection()))
    assert {outcome.action for outcome in outcomes} == {"migrated"}, outcomes
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments)
    return {run.data.tags.get("wandb.run_id", run.info.run_id): run for run in runs}


def test_points_have_the_steps_of_mlflow(fresh_store: str) -> None:
    """The step's column is no metric, nor is the machine that wrote to W&B; a text is counted."""
    run = carried(fresh_store, mirrored(CHILD, experiment="a/b"))[CHILD]
    history = MlflowClient(fresh_store).get_metric_history(run.info.run_id, "loss")
    points = {(metric.step, metric.timestamp, metric.value) for metric in history}
    assert points == {(7, T, 0.5), (-3, T + 1, 0.25)}
    assert run.data.metrics.keys() == {"loss"}
    assert (run.info.start_time, run.info.end_time) == (T, T + 9)
    assert run.data.tags["mlflow.wandb.losses"] == '{"row_value": 1}'
    experiment = MlflowClient(fresh_store).get_experiment(run.info.experiment_id)
    assert experiment.name == "a/b"


def test_a_child_that_came_before_its_parent_is_nested(fresh_store: str) -> None:
    """Whichever of the two is second finds the other."""
    child = mirrored(CHILD, parent_run_id=PARENT)
    runs = carried(fresh_store, child)
    assert "mlflow.parentRunId" not in runs[CHILD].data.tags
    runs = carried(fresh_store, mirrored(PARENT))
    assert runs[CHILD].data.tags["mlflow.parentRunId"] == runs[PARENT].info.run_id


def test_a_config_nests_a_run_below_no_foreign_run(fresh_store: str) -> None:
    """Neither below a run of the store with that id, nor below one of another W&B project."""
    client = MlflowClient(fresh_store)
    foreign = client.create_run(client.create_experiment("theirs")).info.run_id
    other = mirrored("d" * 32, project="other")
    infos = (mirrored(CHILD, parent_run_id=foreign), mirrored(PARENT, parent_run_id="d" * 32))
    runs = carried(fresh_store, other, *infos)
    assert "mlflow.parentRunId" not in runs[CHILD].data.tags
    assert "mlflow.parentRunId" not in runs[PARENT].data.tags
    assert client.get_run(foreign).data.tags.keys() <= {"mlflow.runName"}
