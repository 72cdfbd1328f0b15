"""Steps that are values of a metric, and runs that the user gives us to write."""

from __future__ import annotations

import math

from mlflow import MlflowClient

from mlflow_wandb_plugin.core.model import Checkpoint, RunInfo, Series
from mlflow_wandb_plugin.targets.mlflow import run_points
from mlflow_wandb_plugin.targets.mlflow.run_points import StepAxis
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
    assert run.tags["wandb.sync.step_metric"] == "trainer/step"


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
    assert "wandb.sync.step_metric" not in run.tags


def test_memory_is_bounded_where_no_mark_comes(monkeypatch) -> None:
    """Kept series are released when they are many and a new block begins, never within a block."""
    monkeypatch.setattr(run_points, "HELD_POINTS", 4)
    axis = StepAxis(("at",))

    def block(key: str, first: int, values: list[float]) -> list[Series]:
        steps = range(first, first + len(values))
        return axis.add(Series((key,), list(steps), [0] * len(values), values))

    assert block("a", 0, [1.0, 2.0, 3.0]) == []
    assert block("b", 0, [1.0, 2.0, 3.0]) == []
    assert block("at", 0, [7.0, 8.0, 9.0]) == []
    released = block("a", 3, [4.0])
    assert [(series.key, list(series.steps)) for series in released] == [
        (("a",), [7, 8, 9]), (("b",), [7, 8, 9]), (("at",), [7, 8, 9]),
    ]  # fmt: skip
    assert block("at", 3, [10.0]) == []
    assert [list(series.steps) for series in axis.release()] == [[10], [10]]


def test_of_two_step_metrics_the_first_counts() -> None:
    """In a row that has both; a row with one of them takes that, and one with none its own step."""
    axis = StepAxis(("mlflow_step", "epoch"))
    for key, steps, values in (
        ("a", [0, 1, 2, 3], [0.0] * 4), ("epoch", [0, 1], [50.0, 51.0]),
        ("mlflow_step", [1, 2], [9.0, 8.5]),
    ):  # fmt: skip
        assert axis.add(Series((key,), steps, [0] * len(steps), values)) == []
    assert list(axis.release()[0].steps) == [50, 9, 2, 3]


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
    assert run.tags["wandb.sync.state"] == "complete"


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
