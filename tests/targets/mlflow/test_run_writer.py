"""Writing a run into a real SQLite store."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

from mlflow_wandb_plugin.core.model import Checkpoint, RowObjects, Series
from mlflow_wandb_plugin.core.protocols import TargetOptions, WritePath
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetError
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_state import read_runs
from tests.targets.mlflow.writing import document, end, opened, points, run_info, the_run

AWKWARD_KEYS = [
    "recall@5", "recall_5", "recall#5", "a//b", "/a", "../x", "x" * 300, "😀", "", "...", "..a",
    "a/", ".", "b\x00c", "é", "a.b",
]  # fmt: skip


def test_more_points_than_a_batch_holds(fresh_store: str) -> None:
    """Each point is written once, in batches of MLflow's size over several flushes."""
    values = [float(number) for number in range(10_500)]
    info = run_info()
    with opened(fresh_store, info) as writer:
        writer.append(points("a", values))
        writer.append(points("b", [math.nan, math.inf, -math.inf]))
        end(writer, info)
    client, run = MlflowClient(fresh_store), the_run_without_history(fresh_store)
    assert run.data.metrics["a"] == 10_499.0
    history = client.get_metric_history(run.info.run_id, "a")
    assert [(m.step, m.value) for m in history] == list(enumerate(values))
    odd = [m.value for m in client.get_metric_history(run.info.run_id, "b")]
    assert math.isnan(odd[0])
    assert odd[1] > 1e308
    assert odd[2] < -1e308


def the_run_without_history(uri: str) -> Any:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("unit")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


@pytest.mark.slow
def test_ten_thousand_config_keys(fresh_store: str) -> None:
    """Every config leaf is a param, in batches of MLflow's size."""
    info = run_info(first_config={("c", str(number)): number for number in range(10_000)})
    with opened(fresh_store, info) as writer:
        end(writer, info)
    params = the_run_without_history(fresh_store).data.params
    assert params == {f"c.{number}": str(number) for number in range(10_000)}


def test_long_values_are_cut_counted_and_kept_whole(fresh_store: str, tmp_path: Path) -> None:
    """The full text of a long param or tag is in a JSON document."""
    long, note = "x" * 20_000, "n" * 9_000
    info = run_info(first_config={("p",): long}, config={"p": long}, notes=note)
    with opened(fresh_store, info) as writer:
        writer.update(info)
        end(writer, info)
    run = the_run(fresh_store)
    assert run.params == {"p": long[:MAX_PARAM_VAL_LENGTH]}
    assert run.tags["mlflow.note.content"] == note[:MAX_TAG_VAL_LENGTH]
    assert json.loads(run.tags["mlflow.wandb.rewrites"]) == {"param_cut": 1, "tag_cut": 1}
    assert json.loads(run.tags["mlflow.wandb.losses"]) == {}
    assert document(fresh_store, run, "wandb/config.json", tmp_path) == {"p": long}
    kept = document(fresh_store, run, "wandb/long_tags.json", tmp_path)
    assert kept == {"mlflow.note.content": note}


def test_awkward_keys_keep_all_their_points(fresh_store: str, tmp_path: Path) -> None:
    """Illegal and colliding names become different names, and the originals are kept."""
    info = run_info(
        first_config={(key,): key for key in AWKWARD_KEYS} | {("a", "b"): "nested"},
        tags=tuple(key for key in AWKWARD_KEYS if key),
    )
    with opened(fresh_store, info) as writer:
        for number, key in enumerate(AWKWARD_KEYS):
            writer.append(points(key, [float(number)]))
        writer.append(points(("a", "b"), [99.0]))
        end(writer, info)
    run = the_run(fresh_store)
    assert json.loads(run.tags["mlflow.wandb.losses"]) == {}
    originals = document(fresh_store, run, "wandb/renamed.json", tmp_path)
    named = {tuple(originals["metrics"].get(name, [name])): run.latest[name] for name in run.latest}
    assert named == {(key,): float(number) for number, key in enumerate(AWKWARD_KEYS)} | {
        ("a", "b"): 99.0
    }
    params = {tuple(originals["params"].get(name, [name])): v for name, v in run.params.items()}
    assert params.pop(("a", "b")) == "nested"
    assert params == {(key,): key.replace("\x00", "\ufffd") for key in AWKWARD_KEYS}
    assert json.loads(run.tags["wandb.tags"]) == [key for key in AWKWARD_KEYS if key]


@pytest.mark.parametrize(
    ("bad", "step", "at"), [("negative time", 1, -5), ("time", 1, 2**63), ("step", 2**63, 1_000)]
)
def test_a_point_that_mlflow_refuses_costs_itself_alone(
    fresh_store: str, tmp_path: Path, bad: str, step: int, at: int
) -> None:
    """A refused point is counted and saved with the reason; the rest of its batch is written."""
    info = run_info()
    with opened(fresh_store, info) as writer:
        writer.append(points("a", [float(number) for number in range(700)]))
        writer.append(Series(("bad",), [step], [at], [7.0]))
        writer.append(points("b", [float(number) for number in range(700)]))
        end(writer, info)
    run = the_run(fresh_store)
    assert (len(run.metrics["a"]), len(run.metrics["b"])) == (700, 700)
    assert "bad" not in run.metrics
    assert json.loads(run.tags["mlflow.wandb.losses"]) == {"metric_refused": 1}
    (lost,) = document(fresh_store, run, "wandb/losses.jsonl", tmp_path)
    assert (lost["key"], lost["value"], lost["step"]) == ("bad", "7.0", str(step))
    assert lost["reason"]


@pytest.mark.parametrize("way", ["sql", "api", "server"])
def test_integers_beyond_64_bits_cost_themselves_alone(
    fresh_store: str, server: str, way: str
) -> None:
    """A run with impossible times, steps and sweep is written and ends, whoever stores it."""
    path: WritePath = "api" if way == "api" else "auto"
    uri, run_id = server if way == "server" else fresh_store, f"integers-{way}"
    info = run_info(
        run_id=run_id, project="integers", sweep_id=way, started_ms=2**63, ended_ms=-(2**70)
    )
    target = MlflowTarget(uri, TargetOptions(write_path=path), Backoff(0.0))
    writer = target.open(info, "backfill")
    for step, at in ((2**63, 1), (-(2**63) - 1, 1), (1, 2**63), (1, -1)):
        writer.append(Series(("bad",), [step], [at], [7.0]))
    writer.append(Series(("some",), [2**63 - 1, 2**64, 5], [2**63 - 1, 1, 0], [1.0, 2.0, 3.0]))
    writer.append(points("good", [1.0, 2.0]))
    end(writer, info)
    writer.close()
    (run,) = read_runs(uri, only=run_id).values()
    assert run.points("some") == [(5, 3.0), (2**63 - 1, 1.0)]
    assert run.points("good") == [(0, 1.0), (1, 2.0)]
    assert "bad" not in run.metrics
    assert (run.status, run.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")
    assert json.loads(run.tags["mlflow.wandb.losses"]) == {"metric_refused": 5}
    assert json.loads(run.tags["mlflow.wandb.rewrites"]) == {"time": 2}


@pytest.mark.parametrize("way", ["sql", "api", "server"])
def test_points_that_come_twice_are_written_once_and_not_lost(
    fresh_store: str, server: str, way: str
) -> None:
    """A source that starts again from the beginning brings all points again, with NaN and
    infinities among them."""
    path: WritePath = "api" if way == "api" else "auto"
    uri, info = server if way == "server" else fresh_store, run_info(run_id=f"twice-{way}")
    target = MlflowTarget(uri, TargetOptions(write_path=path), Backoff(0.0))
    values = [1.0, math.nan, math.inf, -math.inf, 2.0, math.nan]
    for process in range(2):
        writer = target.open(info, "backfill", target.find(info))
        writer.append(points("a", values))
        if process == 0:
            writer.checkpoint(Checkpoint("seg", 1))
        else:
            end(writer, info)
        writer.close()
    (run,) = read_runs(uri, only=info.run_id).values()
    highest = sys.float_info.max
    wanted = [(0, 1.0), (1, "nan"), (2, highest), (3, -highest), (4, 2.0), (5, "nan")]
    assert run.points("a") == wanted
    assert json.loads(run.tags["mlflow.wandb.losses"]) == {}
    assert run.tags["mlflow.wandb.state"] == "complete"


def test_losses_of_an_earlier_session_are_not_forgotten(fresh_store: str, tmp_path: Path) -> None:
    """A resumed run counts earlier losses once, however often the log is read."""
    info = run_info()
    bad = Series(("bad",), [1], [-5], [7.0])
    with opened(fresh_store, info) as writer:
        writer.append(bad)
        writer.checkpoint(Checkpoint("seg", 100))
    with opened(fresh_store, info) as writer:
        writer.append(bad)
        writer.append(Series(("bad",), [2], [-5], [8.0]))
        end(writer, info)
    with opened(fresh_store, info) as writer:
        end(writer, info)
    run = the_run(fresh_store)
    assert json.loads(run.tags["mlflow.wandb.losses"]) == {"metric_refused": 2}
    assert len(document(fresh_store, run, "wandb/losses.jsonl", tmp_path)) == 2


def test_values_that_no_database_takes(fresh_store: str, tmp_path: Path) -> None:
    """Lone surrogates and NUL in config and notes are replaced and counted; JSON keeps the NUL."""
    odd = "a\udcffb\x00c"
    info = run_info(first_config={("p",): odd}, config={"p": odd}, notes=odd, summary={"t": odd})
    with opened(fresh_store, info) as writer:
        writer.add(RowObjects(3, 1_500_000, {("t",): odd}))
        end(writer, info)
    run = the_run(fresh_store)
    assert run.params == {"p": "a\ufffdb\ufffdc"}
    assert run.tags["mlflow.note.content"] == "a\ufffdb\ufffdc"
    assert json.loads(run.tags["mlflow.wandb.rewrites"]) == {"param_text": 1, "tag_text": 1}
    assert document(fresh_store, run, "wandb/config.json", tmp_path) == {"p": "a\ufffdb\x00c"}
    (row,) = document(fresh_store, run, "wandb/history.jsonl", tmp_path)
    assert row["t"] == "a\ufffdb\x00c"


def test_a_run_deleted_in_the_middle_is_one_clear_error(
    fresh_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deleted run raises one error, although MLflow refuses each point of it."""
    with opened(fresh_store, run_info()) as writer:
        MlflowClient(fresh_store).delete_run(writer.run_id)
        writer.append(points("a", [1.0] * 1000))
        writer._points._writer._bulk = None
        calls = []
        original = writer._client.log_batch
        monkeypatch.setattr(
            writer._client, "log_batch", lambda *a, **k: (calls.append(1), original(*a, **k))
        )
        with pytest.raises(TargetError, match="was deleted"):
            writer.checkpoint(Checkpoint("seg", 5))
        assert len(calls) == 1
        assert writer.losses == {}


def test_repeating_everything_changes_nothing(fresh_store: str, tmp_path: Path) -> None:
    """A session may write the same again, and so may the next one."""
    info = run_info(first_config={("a",): 1}, summary={"best": 3}, tags=("t",))

    def write(writer: Any) -> None:
        writer.update(info)
        writer.append(points("recall@5", [1.0, math.nan, 3.0]))
        writer.add(RowObjects(1, 1_001_000, {("text",): "x\u2028y\x85z"}))
        writer.checkpoint(Checkpoint("seg", 50))
        end(writer, info)

    with opened(fresh_store, info) as writer:
        write(writer)
    first = the_run(fresh_store, tmp_path / "first")
    with opened(fresh_store, info) as writer:
        assert dict(writer.position) == {"seg": -1}
        write(writer)
        write(writer)
    again = the_run(fresh_store, tmp_path / "again")
    assert again.comparable() == first.comparable()
    assert again.tags["mlflow.wandb.state"] == "complete"
    assert json.loads(again.tags["mlflow.wandb.rewrites"]) == {"name": 1}


def test_a_resumed_run_goes_on_where_it_ended(fresh_store: str, tmp_path: Path) -> None:
    """A complete run that is resumed is RUNNING meanwhile, and keeps names, params and rows."""
    first = run_info(first_config={("lr",): 0.1}, summary={"a": 1}, config={"lr": 0.1})
    with opened(fresh_store, first) as writer:
        writer.append(points("recall_5", [1.0]))
        writer.add(RowObjects(0, 1_000_000, {("t",): "one"}))
        end(writer, first)
    second = run_info(
        segments=("seg", "seg2"), first_config={("lr",): 0.5, ("new",): 2},
        config={"lr": 0.5, "new": 2}, ended_ms=3_000_000, summary={"b": 2},
    )  # fmt: skip
    with opened(fresh_store, second) as writer:
        assert the_run(fresh_store).status == "RUNNING"
        writer.append(points("recall@5", [5.0], first_step=1))
        writer.append(points("recall_5", [2.0], first_step=1))
        writer.add(RowObjects(1, 1_001_000, {("t",): "two"}))
        end(writer, second)
    run = the_run(fresh_store)
    assert (run.status, run.end) == ("FINISHED", 3_000_000)
    assert run.points("recall_5") == [(0, 1.0), (1, 2.0)]
    (other,) = set(run.metrics) - {"recall_5", "a", "b"}
    assert run.points(other) == [(1, 5.0)]
    assert run.params == {"lr": "0.1", "new": "2"}
    assert json.loads(run.tags["mlflow.wandb.position"]) == {"seg": -1, "seg2": -1}
    rows = document(fresh_store, run, "wandb/history.jsonl", tmp_path)
    assert [row["t"] for row in rows] == ["one", "two"]
    assert document(fresh_store, run, "wandb/summary.json", tmp_path) == {"a": 1, "b": 2}


def test_a_position_is_written_behind_its_points(fresh_store: str) -> None:
    """A checkpoint writes the points and the position, also if the session dies later."""
    info = run_info(state="running", ended_ms=None, exit_code=None)
    with opened(fresh_store, info) as writer:
        writer.append(points("a", [1.0]))
        writer.checkpoint(Checkpoint("seg", 77))
        writer.append(points("a", [2.0], first_step=1))
    run = the_run(fresh_store)
    assert run.points("a") == [(0, 1.0)]
    assert (run.status, run.tags["mlflow.wandb.state"]) == ("RUNNING", "live")
    with opened(fresh_store, info) as writer:
        assert dict(writer.position) == {"seg": 77}


def test_a_tag_taken_off_the_wandb_run_goes(fresh_store: str) -> None:
    """A removed W&B tag is removed; other tags of the run are kept."""
    with opened(fresh_store, run_info(tags=("a", "b"))) as writer:
        writer.update(run_info(tags=("a", "b")))
        MlflowClient(fresh_store).set_tag(writer.run_id, "mine", "1")
        end(writer, run_info(tags=("b",)))
    tags = the_run(fresh_store).tags
    assert (tags["wandb.tags"], tags["mine"]) == ('["b"]', "1")


def test_the_last_tag_taken_off_the_wandb_run_goes(fresh_store: str) -> None:
    """A run that has no W&B tags and no group any more has no tags of MLflow's for them."""
    with opened(fresh_store, run_info(tags=("a",), group="g")) as writer:
        writer.update(run_info(tags=("a",), group="g"))
        writer.update(run_info())
    assert the_run(fresh_store).tags.keys().isdisjoint({"wandb.tags", "run_group"})


@pytest.mark.parametrize(
    ("state", "status"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("killed", "KILLED"), ("crashed", "FAILED")],
)
def test_how_a_run_ended(fresh_store: str, state: Any, status: str) -> None:
    """W&B's state and end time become MLflow's status and end time."""
    info = run_info(state=state)
    with opened(fresh_store, info) as writer:
        end(writer, info, complete=False)
    run = the_run(fresh_store)
    assert (run.status, run.start, run.end) == (status, 1_000_000, 2_000_000)
    assert run.tags["mlflow.wandb.state"] == "partial"


def test_system_points_step_by_seconds_since_the_start(fresh_store: str) -> None:
    """Steps of system points are whole seconds since the run's start."""
    info = run_info()
    with opened(fresh_store, info) as writer:
        for at in (1_000_400, 1_015_900, 999_000):
            writer.append(Series(("cpu",), (0,), (at,), (50.0,), "system"))
        end(writer, info)
    points_ = the_run(fresh_store).metrics["system/cpu_utilization_percentage"]
    assert points_ == [(50.0, 999_000, 0), (50.0, 1_000_400, 0), (50.0, 1_015_900, 15)]


def test_rows_that_do_not_come_again_arrive_before_the_position(
    fresh_store: str, tmp_path: Path
) -> None:
    """A position with `rows_too` is written after the rows, and later if these are only a few."""
    info = run_info(state="running", ended_ms=None, exit_code=None)
    with opened(fresh_store, info) as writer:
        writer.add(RowObjects(0, 1000, {("t",): "a long enough first line"}))
        writer.checkpoint(Checkpoint("server", 1, rows_too=True))
        assert dict(writer.position) == {"server": 1}
    (row,) = document(fresh_store, the_run(fresh_store), "wandb/history.jsonl", tmp_path)
    assert row["t"] == "a long enough first line"
    with opened(fresh_store, info) as writer:
        writer.add(RowObjects(1, 2000, {("t",): "b"}))
        writer.checkpoint(Checkpoint("server", 2, rows_too=True))
        assert dict(writer.position) == {"server": 1}
        writer.finish(info, complete=False)
        assert dict(writer.position) == {"server": 2}
    rows = document(fresh_store, the_run(fresh_store), "wandb/history.jsonl", tmp_path)
    assert [row["t"] for row in rows] == ["a long enough first line", "b"]


@pytest.mark.parametrize("path", ["auto", "api"])
def test_two_processes_end_one_run(fresh_store: str, path: WritePath) -> None:
    """Two writers of one run, as for a killed process and the one that resumes it, both finish."""
    target = MlflowTarget(fresh_store, TargetOptions(write_path=path))
    first = target.open(run_info(), "dual", target.find(run_info()))
    second = target.open(run_info(), "dual", target.find(run_info()))
    for step, writer in enumerate((first, second)):
        writer.append(points("a", [float(step)], first_step=step))
        end(writer, run_info())
        writer.close()
    run = the_run(fresh_store)
    assert run.points("a") == [(0, 0.0), (1, 1.0)]
    assert (run.status, run.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")
    assert "mlflow.wandb.claim" not in run.tags
