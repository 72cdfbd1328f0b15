"""Steps that are values of a metric, and runs that the user gives us to write."""

from __future__ import annotations

import json
import math
from contextlib import closing

import pytest
from mlflow import MlflowClient

from mlflow_wandb_plugin.core.metric_rules import MetricRule
from mlflow_wandb_plugin.core.model import Checkpoint, RunInfo, Series, StepDefinition
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_state import read_runs
from tests.targets.mlflow.writing import end, opened, points, run_info, the_run

STEPPED = {"mlflow_step_metric": "trainer/step"}


def test_a_row_stands_at_the_value_of_the_step_metric(fresh_store: str) -> None:
    """All points of a row and the summary get the value of the step metric as their step."""
    last = {("trainer/step",): 30.0}
    info = run_info(config=STEPPED, last=last, summary={"best": 0.5})
    with opened(fresh_store, info) as writer:
        writer.append(points("loss", [3.0, 2.0, 1.0]))
        writer.append(points("trainer/step", [10.0, 20.0, 30.0]))
        writer.checkpoint(Checkpoint("seg", 1))
        end(writer, info)
    run = the_run(fresh_store)
    assert run.points("loss") == [(10, 3.0), (20, 2.0), (30, 1.0)]
    assert run.points("trainer/step") == [(10, 10.0), (20, 20.0), (30, 30.0)]
    assert run.points("best") == [(30, 0.5)]
    assert run.tags["mlflow.wandb.step_metric"] == "trainer/step"


def test_rows_without_a_whole_number_keep_their_step(fresh_store: str) -> None:
    """A row keeps its own step if the metric's value is missing or not a 64-bit integer."""
    info = run_info(config=STEPPED)
    odd = [1.5, math.nan, math.inf, 2.0**63, 50.0]
    with opened(fresh_store, info) as writer:
        writer.append(points("loss", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
        writer.append(points("trainer/step", odd, first_step=1))
        end(writer, info)
    assert [step for step, _ in the_run(fresh_store).points("loss")] == [0, 1, 2, 3, 4, 50]


def test_training_that_goes_back_keeps_both_points(fresh_store: str) -> None:
    """Steps that are logged again after a resume are kept, with different times."""
    info = run_info(config=STEPPED)
    with opened(fresh_store, info) as writer:
        writer.append(points("trainer/step", [1.0, 2.0, 3.0, 2.0, 3.0]))
        writer.append(points("loss", [5.0, 4.0, 3.0, 3.5, 2.5]))
        end(writer, info)
    by_time = sorted(the_run(fresh_store).metrics["loss"], key=lambda point: point[1])
    found = [(step, value) for value, _, step in by_time]
    assert found == [(1, 5.0), (2, 4.0), (3, 3.0), (2, 3.5), (3, 2.5)]


def write_second_row(uri: str, info: RunInfo) -> None:
    """Resume and end a run that has one row."""
    with opened(uri, info) as writer:
        writer.append(points("trainer/step", [20.0], first_step=1))
        writer.append(points("loss", [2.0], first_step=1))
        end(writer, info)


def test_the_kind_of_step_is_decided_when_the_run_is_first_written(fresh_store: str) -> None:
    """A resumed run keeps its step metric, whatever the new config says."""
    first, second = run_info(config=STEPPED), run_info()
    with opened(fresh_store, first) as writer:
        writer.append(points("trainer/step", [10.0]))
        writer.append(points("loss", [1.0]))
        writer.checkpoint(Checkpoint("seg", 1))
    write_second_row(fresh_store, second)
    assert the_run(fresh_store).points("loss") == [(10, 1.0), (20, 2.0)]


def test_a_run_that_began_with_wandbs_step_keeps_it(fresh_store: str) -> None:
    """A step metric in a later config is ignored."""
    first, second = run_info(), run_info(config=STEPPED)
    with opened(fresh_store, first) as writer:
        writer.append(points("loss", [1.0]))
        writer.checkpoint(Checkpoint("seg", 1))
    write_second_row(fresh_store, second)
    run = the_run(fresh_store)
    assert run.points("loss") == [(0, 1.0), (1, 2.0)]
    assert "mlflow.wandb.step_metric" not in run.tags


DEFINED = (StepDefinition(0, "loss", "at"),)


def write_rows(uri: str, info: RunInfo, first: int, count: int) -> None:
    """Go on with a run, by rows whose ``at`` is ten times W&B's step, and end it."""
    numbers = range(first, first + count)
    with opened(uri, info) as writer:
        writer.append(points("loss", [float(number) for number in numbers], first_step=first))
        writer.append(points("at", [10.0 * number for number in numbers], first_step=first))
        end(writer, info)


def test_a_key_has_the_steps_that_are_defined_for_it(fresh_store: str) -> None:
    """Other keys have W&B's; a tag says what is defined, and holds where nothing is known later."""
    write_rows(fresh_store, run_info(step_definitions=DEFINED), 1, 2)
    write_rows(fresh_store, run_info(), 3, 1)
    run = the_run(fresh_store)
    assert run.points("loss") == [(10, 1.0), (20, 2.0), (30, 3.0)]
    assert run.points("at") == [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert json.loads(run.tags["mlflow.wandb.steps"]) == {
        "definitions": [[0, "loss", "at"]], "through": 3,
    }  # fmt: skip


def test_what_is_defined_as_of_the_first_row_later_moves_no_point(fresh_store: str) -> None:
    """W&B's server knows the last definitions only; those with a later step are added."""
    write_rows(fresh_store, run_info(step_definitions=DEFINED), 1, 2)
    otherwise = StepDefinition(0, "loss", "other"), StepDefinition(3, "loss", "")
    write_rows(fresh_store, run_info(step_definitions=otherwise), 1, 3)
    run = the_run(fresh_store)
    assert run.points("loss") == [(3, 3.0), (10, 1.0), (20, 2.0)]


@pytest.mark.parametrize("first", ["wandb", "defined"])
def test_the_setting_holds_that_was_in_force_when_the_run_was_first_written(
    fresh_store: str, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """A later writer with the other setting goes on as the run began."""
    info = run_info(step_definitions=DEFINED)
    monkeypatch.setenv("MLFLOW_WANDB_STEPS", first)
    write_rows(fresh_store, info, 1, 1)
    monkeypatch.setenv("MLFLOW_WANDB_STEPS", "defined" if first == "wandb" else "wandb")
    write_rows(fresh_store, info, 1, 2)
    run = the_run(fresh_store)
    assert (
        run.points("loss") == [(1, 1.0), (2, 2.0)] if first == "wandb" else [(10, 1.0), (20, 2.0)]
    )
    assert ("mlflow.wandb.steps" in run.tags) == (first == "defined")


def test_a_run_of_an_earlier_version_keeps_its_steps(fresh_store: str) -> None:
    """Mapping version 4 knew no definitions: its runs have no such tag."""
    info = run_info(step_definitions=DEFINED)
    client = MlflowClient(fresh_store)
    names = ("run_id", "project", "run_path", "sync.origin", "sync.state", "sync.mapping")
    values = ("r1", "unit", "unit/r1", "dual", "live", "4")
    tags = {f"wandb.{name}": value for name, value in zip(names, values, strict=True)}
    client.create_run(client.create_experiment("unit"), tags=tags)
    write_rows(fresh_store, info, 1, 2)
    run = the_run(fresh_store)
    assert run.points("loss") == [(1, 1.0), (2, 2.0)]
    assert "mlflow.wandb.steps" not in run.tags


def test_the_summary_stands_at_the_last_value_of_the_step_metric(fresh_store: str) -> None:
    """Each key at its own; a statistic goes with its key; a key without one at W&B's step."""
    info = run_info(
        step_definitions=(*DEFINED, StepDefinition(0, "best", "at"), StepDefinition(0, "x", "no")),
        last={("loss",): 1.0, ("at",): 40.0}, last_step=4,
        summary={"loss": {"min": 0.5}, "best": 2.0, "x": 3.0, "alone": 4.0},
    )  # fmt: skip
    with opened(fresh_store, info) as writer:
        end(writer, info)
    run = the_run(fresh_store)
    found = {name: run.points(name) for name in run.metrics}
    assert found == {
        "loss.min": [(40, 0.5)], "best": [(40, 2.0)], "x": [(4, 3.0)], "alone": [(4, 4.0)],
    }  # fmt: skip


def test_rows_of_mlflows_calls_have_mlflows_steps(fresh_store: str) -> None:
    """`mlflow_step` is the step of a row that has it, and no metric; only where the config says
    that MLflow's calls have logged."""
    for run_id, config in (("calls", {"mlflow_calls": {"active": True}}), ("none", {"lr": 1})):
        info = run_info(run_id=run_id, config=config)
        with opened(fresh_store, info) as writer:
            writer.append(Series(("acc",), (0, 1), (1000, 2000), (0.5, 0.75)))
            writer.append(Series(("mlflow_step",), (1,), (2000,), (70.0,)))
            writer.checkpoint(Checkpoint("seg", 1))
    states = read_runs(fresh_store)
    assert states["calls"].points("acc") == [(0, 0.5), (70, 0.75)]
    assert "mlflow_step" not in states["calls"].metrics
    assert states["none"].points("acc") == [(0, 0.5), (1, 0.75)]
    assert states["none"].points("mlflow_step") == [(1, 70.0)]


def _somebodys_run(uri: str) -> str:
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("elsewhere"), run_name="theirs")
    client.log_metric(run.info.run_id, "loss", 9.0, step=0)
    return str(run.info.run_id)


def _finished(config: dict[str, object]) -> RunInfo:
    first = {(key,): value for key, value in config.items()} | {("lr",): 0.1}
    return run_info(config=config | {"lr": 0.1}, first_config=first)


def test_a_run_that_was_given_to_us_is_written_as_our_own(fresh_store: str) -> None:
    """A given run gets params, points, status and identity, and keeps what it had."""
    run_id = _somebodys_run(fresh_store)
    info = _finished({"mlflow_run_id": run_id, "mlflow_run_given": True})
    with opened(fresh_store, info, adopt_dual=True) as writer:
        assert writer.run_id == run_id
        writer.append(points("loss", [1.0, 2.0]))
        end(writer, info)
    run = the_run(fresh_store)
    assert (run.run_id, run.status, run.params) == (run_id, "FINISHED", {"lr": "0.1"})
    assert run.points("loss") == [(0, 1.0), (0, 9.0), (1, 2.0)]
    assert run.tags["mlflow.wandb.state"] == "complete"


def test_a_run_that_another_tool_writes_keeps_its_params_and_status(fresh_store: str) -> None:
    """A run that the config names belongs to another tool, unless the user gave it."""
    run_id = _somebodys_run(fresh_store)
    info = _finished({"mlflow_run_id": run_id} | STEPPED)
    with opened(fresh_store, info, adopt_dual=True) as writer:
        writer.append(points("trainer/step", [0.0, 5.0]))
        writer.append(points("loss", [1.0, 2.0]))
        end(writer, info)
    run = the_run(fresh_store)
    assert (run.status, run.params) == ("RUNNING", {})
    assert run.points("loss") == [(0, 9.0), (5, 2.0)]


def test_rules_are_counted_in_a_run_that_another_tool_writes(fresh_store: str) -> None:
    """What a plugin drops is counted there as in our own runs."""
    run_id = _somebodys_run(fresh_store)
    info = _finished({"mlflow_run_id": run_id})
    options = TargetOptions(
        adopt_dual=True, map_metric=lambda _, key: MetricRule(drop=True) if key == ("b",) else None
    )
    target = MlflowTarget(fresh_store, options, Backoff(0.0))
    writer = target.open(info, "backfill", target.find(info))
    with closing(writer):
        writer.append(points("a", [1.0]))
        writer.append(points("b", [2.0]))
        end(writer, info)
    run = the_run(fresh_store)
    assert (run.points("a"), "b" in run.metrics) == ([(0, 1.0)], False)
    assert json.loads(run.tags["mlflow.wandb.rewrites"])["metric_dropped"] == 1
