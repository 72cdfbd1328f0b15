"""A run's history is read completely, whatever the W&B server does meanwhile."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.core.identity import SERVER
from mlflow_wandb_plugin.core.model import Checkpoint, RowObjects, RunInfo, Selection, Series
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError
from mlflow_wandb_plugin.sources.wandb_server.source import WandbServerSource
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from mlflow_wandb_plugin.wandb_log.decoder import BLOCK_POINTS
from tests.support.mlflow_state import read_runs
from tests.support.wandb_source import Read, gather, only_run, read_run, source_of
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import Worker
from tests.wandb_server.history import History
from tests.wandb_server.schema.execute import GraphQLFailure
from tests.wandb_server.schema.runs import RunView

ROWS: list[dict[str, Any]] = [
    {
        "_step": i,
        "_timestamp": 1.7e9 + i + 0.25,
        "_runtime": i / 2,
        "loss": 1 / (i + 1),
        "whole": i,
        "odd": [math.nan, math.inf, -math.inf][i % 3],
        "flag": i % 4 == 0,
        "dotted.key": i,
        "slashed/key": f"text {i}",
        "nan text": "NaN",
        "nested": {"a": i, "b": {"c": -i, "text": "t"}},
        "image": {"_type": "image-file", "path": f"media/{i}.png", "size": i},
        "list": [i, i + 1],
        **({"rare": i} if i % 7 == 0 else {}),
    }
    for i in range(0, 200, 2)
]


def expected(rows: list[dict[str, Any]]) -> tuple[dict[str, dict[int, float]], dict[int, Any]]:
    """What `ROWS` must become, written down by hand and not by the code that is tested."""
    points: dict[str, dict[int, float]] = {}
    objects: dict[int, Any] = {}
    for row in rows:
        step = row["_step"]
        numbers = {
            "loss": row["loss"], "whole": row["whole"], "odd": row["odd"],
            "flag": 1.0 if row["flag"] else 0.0, "dotted.key": row["dotted.key"],
            "nested.a": row["nested"]["a"], "nested.b.c": row["nested"]["b"]["c"],
        }  # fmt: skip
        if "rare" in row:
            numbers["rare"] = row["rare"]
        for key, value in numbers.items():
            points.setdefault(key, {})[step] = float(value)
        objects[step] = {
            "slashed/key": row["slashed/key"], "nan text": "NaN", "nested.b.text": "t",
            "image": row["image"], "list": row["list"],
        }  # fmt: skip
    return points, objects


class Counted(History):
    """A history of which the server counts a hundred rows, but may return fewer."""

    @property
    def line_count(self) -> int:
        return 100


def same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


def assert_rows(read: Read, rows: list[dict[str, Any]]) -> None:
    """``read`` holds exactly ``rows``, each value and time once."""
    points, objects = expected(rows)
    assert read.points.keys() == points.keys()
    for key, values in points.items():
        found = read.values(key)
        assert found.keys() == values.keys(), key
        assert all(same(found[step], values[step]) for step in values), key
    for step, timestamp_ms, _ in read.points["loss"]:
        assert timestamp_ms == 1_700_000_000_000 + step * 1000 + 250
    assert read.objects == objects


@pytest.mark.parametrize("exported", [0, 1, 37, 99, 100])
@pytest.mark.parametrize("page_rows", [7, 1000])
def test_rows_arrive_equal_wherever_the_live_tail_begins(
    wandb: WandbServer, exported: int, page_rows: int
) -> None:
    """Live only, exported only, and half and half: the same values, times, objects and end."""
    run = wandb.add_run(f"split-{exported}-{page_rows}", "r", rows=ROWS)
    wandb.parquet(run, exported, files=3)
    read = read_run(source_of(wandb, run.project.name, page_rows=page_rows))
    assert_rows(read, ROWS)
    assert read.unreadable == []
    last = read.last
    assert (last.state, last.missing, last.rows) == ("finished", False, {SERVER: 100})
    assert (last.last_step, last.last_ms) == (198, 1_700_000_198_250)
    assert last.last["nested", "b", "c"] == -198
    assert last.last["rare",] == 196
    assert same(last.last["odd",], math.nan)
    assert read.marks == sorted(set(read.marks))
    assert read.marks[-1] == 199


def test_the_source_reads_what_wandbs_own_api_reads(wandb: WandbServer, api: Worker) -> None:
    """A run logged by the real SDK, read by the real SDK's scan and by the source: equal."""
    api.call(
        """
        import wandb
        with wandb.init(project="equal", id="r") as run:
            for i in range(60):
                run.log({"x": i / 7, "deep": {"y": i}, "flag": i % 2 == 0,
                         "nan": float("nan"), "text": f"t{i}"})
            run.log({"late": 1}, step=5_000)
        """
    )
    wandb.parquet(wandb.run("equal/r"), 30)
    scanned = api.call(
        """
        import wandb
        rows = wandb.Api().run("equal/r").scan_history(use_cache=False, page_size=1000)
        result = [[row["_step"], row["_timestamp"], row.get("x"), row.get("late"), row.get("text"),
                   row.get("flag"), row.get("deep.y", (row.get("deep") or {}).get("y"))]
                  for row in rows]
        """
    )
    read = read_run(source_of(wandb, "equal"))
    assert len(scanned) == 61
    for step, timestamp, x, late, text, flag, deep in scanned:
        if late is not None:
            assert read.values("late") == {step: late}
            continue
        assert (step, int(timestamp * 1000), x) in read.points["x"]
        assert read.values("flag")[step] == (1.0 if flag else 0.0)
        assert read.objects[step]["text"] == text
        if deep is not None:
            assert read.values("deep.y")[step] == deep
    assert len(read.points["nan"]) == len(read.points["deep.y"]) == 60
    assert read.steps == [row[0] for row in scanned]


def test_numbers_that_come_as_text_become_numbers(wandb: WandbServer) -> None:
    """If a key has numbers, its texts NaN and Infinity are numbers."""
    rows = [{"x": 1.5, "word": "NaN"}, {"x": "NaN"}, {"x": "-Infinity"}]
    run = wandb.add_run("as-text", "r", rows=rows)
    keys = run.history.keys()
    assert keys is not None
    keys["keys"]["x"]["typeCounts"] = [{"type": "number", "count": 3}]
    run.history.keys = lambda: keys  # type: ignore[method-assign]
    read = read_run(source_of(wandb, "as-text"))
    values = read.values("x")
    assert values[0] == 1.5
    assert math.isnan(values[1])
    assert values[2] == -math.inf
    assert read.objects == {0: {"word": "NaN"}}


def test_keys_of_several_types_read_the_same_from_exports(wandb: WandbServer) -> None:
    """Numbers stay numbers and texts texts, also those that look like JSON."""
    values = [1, "two", 2.5, True, [1, None], {"_type": "x", "a": None}, "4", {"k": 7}]
    rows = [{"mixed": value, "text": f"{i}"} for i, value in enumerate(values)]
    live = read_run(source_of(wandb, wandb.add_run("mixed-live", "r", rows=rows).project.name))
    wandb.parquet(wandb.add_run("mixed-exported", "r", rows=rows))
    exported = read_run(source_of(wandb, "mixed-exported"))
    assert exported.values("mixed") == {0: 1.0, 2: 2.5, 3: 1.0}
    assert exported.values("mixed.k") == {7: 7.0}
    assert exported.points.keys() == live.points.keys()
    assert exported.objects == live.objects
    assert exported.objects[6] == {"mixed": "4", "text": "6"}


def test_a_null_is_kept_where_it_was_logged(wandb: WandbServer) -> None:
    """A live row's null is a value; an export's null is a key that the row lacks."""
    rows = [{"x": None, "y": 1}, {"x": 2.0}]
    wandb.add_run("null-live", "r", rows=rows)
    assert read_run(source_of(wandb, "null-live")).objects == {0: {"x": None}}
    wandb.parquet(wandb.add_run("null-exported", "r", rows=rows))
    exported = read_run(source_of(wandb, "null-exported"))
    assert (exported.objects, exported.values("x")) == ({}, {1: 2.0})


def test_numbers_beyond_floats_do_not_stop_a_run(wandb: WandbServer) -> None:
    """An integer that no float can hold is infinite, as it is in a local log."""
    wandb.add_run("huge", "r", rows=[{"x": 10**400, "y": -(10**400), "z": 2**70}])
    read = read_run(source_of(wandb, "huge"))
    assert read.values("x") == {0: math.inf}
    assert read.values("y") == {0: -math.inf}
    assert read.values("z") == {0: float(2**70)}
    assert read.last.summary["x"] == math.inf


def test_only_the_last_info_says_that_the_run_has_ended(wandb: WandbServer) -> None:
    """A target takes an ended run's summary as final: the run runs until its rows are read."""
    wandb.add_run("last-word", "r", rows=ROWS, files={"a": b"a"})
    source = source_of(wandb, "last-word")
    items = list(source.read(only_run(source), {}))
    states = [item.state for item in items if isinstance(item, RunInfo)]
    assert states[-1] == "finished"
    assert set(states[:-1]) == {"running"}
    assert isinstance(items[-1], RunInfo)


def test_a_run_without_rows_is_complete(wandb: WandbServer) -> None:
    """No row, no mark, no damage."""
    wandb.add_run("empty", "r")
    source = source_of(wandb, "empty")
    read = read_run(source)
    assert (read.points, read.marks, read.unreadable) == ({}, [], [])
    assert (read.last.missing, read.last.rows, read.last.last_step) == (False, {SERVER: 0}, None)
    assert source.calls.get("HistoryPage", 0) == 0


@pytest.mark.parametrize("exported", [0, 10])
def test_sparse_steps_cost_few_requests(wandb: WandbServer, exported: int) -> None:
    """Twenty rows a million steps apart are a few pages, and all there."""
    rows = [{"_step": i * 1_000_000, "_timestamp": 1.7e9 + i, "x": i} for i in range(20)]
    run = wandb.add_run(f"sparse-{exported}", "r", rows=rows)
    wandb.parquet(run, exported)
    source = source_of(wandb, run.project.name)
    read = read_run(source)
    assert read.values("x") == {i * 1_000_000: float(i) for i in range(20)}
    assert source.calls["HistoryPage"] <= 3


def test_rows_without_times_have_times_that_stay(wandb: WandbServer) -> None:
    """Read from the start or from the middle, a row has one time."""
    rows = [{"x": i, "_runtime": i * 10} for i in range(6)]
    run = wandb.add_run("timeless", "r", rows=rows, created_at="2024-01-01T00:00:00Z")
    wandb.parquet(run, 2)
    source = source_of(wandb, "timeless")
    start = 1_704_067_200_000
    whole = read_run(source)
    assert whole.points["x"] == [(i, start + i * 10_000, float(i)) for i in range(6)]
    assert read_run(source, since={SERVER: 4}).points["x"] == whole.points["x"][4:]


# -- going on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("exported", [0, 25, 50])
def test_a_growing_run_is_gone_on_with_from_its_mark(wandb: WandbServer, exported: int) -> None:
    """The second read brings the new rows and only those; a third brings none."""
    run = wandb.add_run(f"growing-{exported}", "r", rows=ROWS[:50], state="running")
    wandb.parquet(run, exported)
    source = source_of(wandb, run.project.name, page_rows=20)
    first = read_run(source)
    assert_rows(first, ROWS[:50])
    assert (first.last.state, first.last.ended_ms) == ("running", None)
    wandb.grow(run, ROWS[50:])
    second = read_run(source, since={SERVER: first.marks[-1]})
    assert_rows(second, ROWS[50:])
    third = read_run(source, since={SERVER: second.marks[-1]})
    assert (third.steps, third.marks) == ([], [])


@pytest.mark.parametrize("exported", [0, 60, 100])
@pytest.mark.parametrize("position", [0, 1, 99, 100, 151, 199])
def test_a_resumed_read_ends_like_a_complete_one(
    wandb: WandbServer, exported: int, position: int
) -> None:
    """Nothing before the position is yielded again, and the run's last values are complete."""
    run = wandb.add_run(f"resumed-{exported}-{position}", "r", rows=ROWS)
    wandb.parquet(run, exported, files=2)
    source = source_of(wandb, run.project.name, page_rows=20)
    whole, rest = read_run(source), read_run(source, since={SERVER: position})
    assert rest.steps == [step for step in whole.steps if step >= position]
    assert rest.unreadable == []
    assert rest.last.missing is False
    numbers = {path for path, value in rest.last.last.items() if not math.isnan(value)}
    assert rest.last.last_step == whole.last.last_step
    assert rest.last.last_ms == whole.last.last_ms
    assert {path: rest.last.last[path] for path in numbers} == {
        path: value for path, value in whole.last.last.items() if not math.isnan(value)
    }


def test_a_run_carried_to_its_end_and_then_resumed_is_read_again(wandb: WandbServer) -> None:
    """A position "to the end" names no step: all of the run is read."""
    run = wandb.add_run("to-the-end", "r", rows=ROWS[:10])
    wandb.grow(run, ROWS[10:20])
    read = read_run(source_of(wandb, "to-the-end"), since={SERVER: -1})
    assert_rows(read, ROWS[:20])


def test_a_mark_never_passes_a_row_that_was_not_yielded(wandb: WandbServer) -> None:
    """At each mark all earlier rows have been yielded, in every mix of exports and live tail."""
    run = wandb.add_run("marks", "r", rows=ROWS)
    wandb.parquet(run, 55, files=4)
    source = source_of(wandb, "marks", page_rows=6)
    yielded: set[int] = set()
    for item in source.read(only_run(source), {}):
        if isinstance(item, Series):
            yielded.update(item.steps)
        elif isinstance(item, RowObjects):
            yielded.add(item.step)
        elif isinstance(item, Checkpoint):
            assert {row["_step"] for row in ROWS if row["_step"] < item.position} <= yielded


# -- a server that changes under the reader -----------------------------------------------------


def test_rows_exported_while_they_are_read_are_found(wandb: WandbServer) -> None:
    """Rows that are exported between two pages are read in another pass, once."""
    run = wandb.add_run("moved", "r", rows=ROWS)
    wandb.fail("HistoryPage", skip=2, before=lambda: wandb.parquet(run, 80))
    source = source_of(wandb, "moved", page_rows=10)
    read = read_run(source)
    assert_rows(read, ROWS)
    assert (read.last.missing, read.unreadable) == (False, [])
    assert source.calls["RunParquetHistory"] == 2
    assert read.marks == sorted(read.marks)


def test_no_mark_passes_rows_that_moved(wandb: WandbServer) -> None:
    """A read that is stopped after the gap can be resumed, and the rows are not lost."""
    run = wandb.add_run("moved-marks", "r", rows=ROWS)
    wandb.fail("HistoryPage", skip=2, before=lambda: wandb.parquet(run, 25))
    wandb.fail("HistoryPage", skip=5, status=400, times=None)
    source = source_of(wandb, "moved-marks", page_rows=10)
    stopped = Read()
    with pytest.raises(SourceError):
        gather(source.read(only_run(source), {}), stopped)
    wandb.heal()
    rest = read_run(source, since={SERVER: stopped.marks[-1]})
    assert set(stopped.steps) | set(rest.steps) == {row["_step"] for row in ROWS}
    assert rest.last.missing is False


def test_rows_that_are_both_exported_and_live_are_yielded_once(wandb: WandbServer) -> None:
    """A server that still serves rows which it has exported does not double them."""
    run = wandb.add_run("both", "r", rows=ROWS)
    wandb.parquet(run, 60)
    copies = wandb.add_run("both-copies", "r", rows=ROWS).history.live
    run.history.live[:0] = copies[50:60]
    assert run.history.line_count == 110
    run.history.__class__ = Counted
    assert_rows(read_run(source_of(wandb, "both")), ROWS)


def test_a_run_that_grows_while_it_is_read_is_left_running(wandb: WandbServer) -> None:
    """What was there when the read began is yielded; the rest is for the next."""
    run = wandb.add_run("grows", "r", rows=ROWS[:60], state="running")
    wandb.fail("HistoryPage", skip=1, before=lambda: wandb.grow(run, ROWS[60:]))
    source = source_of(wandb, "grows", page_rows=20)
    read = read_run(source)
    assert_rows(read, ROWS[:60])
    assert (read.last.state, read.last.missing) == ("running", False)
    assert_rows(read_run(source, since={SERVER: read.marks[-1]}), ROWS[60:])


def test_a_run_that_ends_while_it_is_read_is_not_complete_yet(wandb: WandbServer) -> None:
    """Files and rows may have been too late: the next read yields the run as finished."""
    run = wandb.add_run("ends", "r", rows=ROWS[:60], state="running")

    def end() -> None:
        wandb.grow(run, ROWS[60:])
        run.state = "finished"

    wandb.fail("HistoryPage", skip=1, before=end)
    source = source_of(wandb, "ends", page_rows=20)
    read = read_run(source)
    assert (read.last.state, read.last.ended_ms) == ("running", None)
    again = read_run(source, since={SERVER: read.marks[-1]})
    assert again.last.state == "finished"
    assert set(read.steps) | set(again.steps) == {row["_step"] for row in ROWS}


def test_a_finished_run_that_grows_is_read_on(wandb: WandbServer) -> None:
    """Rows that a finished run gets late are read before it is complete."""
    run = wandb.add_run("late", "r", rows=ROWS[:60])
    wandb.fail("HistoryPage", skip=1, before=lambda: wandb.grow(run, ROWS[60:]))
    read = read_run(source_of(wandb, "late", page_rows=20))
    assert_rows(read, ROWS)
    assert read.last.rows == {SERVER: 100}


def test_rows_that_the_server_counts_and_never_returns_are_missing(wandb: WandbServer) -> None:
    """After a few passes the run is reported as incomplete."""
    run = wandb.add_run("lacking", "r", rows=ROWS)
    del run.history.live[40:43]
    run.history.__class__ = Counted
    source = source_of(wandb, "lacking")
    read = read_run(source)
    assert read.last.missing is True
    (unreadable,) = read.unreadable
    assert (unreadable.offset, unreadable.length, unreadable.unit) == (97, 3, "rows")
    assert "counts 100 rows and returns 97" in str(unreadable)
    assert_rows(read, ROWS[:40] + ROWS[43:])
    assert source.calls["RunParquetHistory"] == 3


def test_a_server_that_does_not_name_its_live_rows_is_read_by_ranges(wandb: WandbServer) -> None:
    """Every row is read; without listed rows there are no checkpoints."""
    rows = [*ROWS, {**ROWS[0], "_step": 4_000_000, "_timestamp": 1.7e9 + 4_000_000.25}]
    run = wandb.add_run("unnamed", "r", rows=rows)
    wandb.parquet(run, 30)
    run.history.live_data = lambda keys: []  # type: ignore[method-assign]
    source = source_of(wandb, "unnamed", page_rows=50)
    read = read_run(source)
    assert read.steps == [row["_step"] for row in rows]
    assert (read.last.missing, read.marks[1:]) == (False, [])
    assert source.calls["HistoryPage"] < 40


def test_a_server_without_exports_is_read(
    wandb: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A W&B server of one's own may be older than exports: its rows are asked for by ranges."""

    def unknown(self: RunView, liveKeys: list[str]) -> Any:
        raise GraphQLFailure('Cannot query field "parquetHistory" on type "Run".')

    monkeypatch.setattr(RunView, "parquetHistory", unknown)
    wandb.add_run("no-exports", "r", rows=ROWS)
    assert_rows(read_run(source_of(wandb, "no-exports", page_rows=30)), ROWS)


def test_a_nested_key_has_one_path_from_its_first_row_on(wandb: WandbServer) -> None:
    """A server may give nested keys with dots; the summary tells them from keys with dots, also
    those that are new since the run was looked up."""
    rows = [{"a.b": 1.0, "c.d": 2.0}]
    run = wandb.add_run("paths", "r", rows=[{"x": 0.0}], state="running")

    def grow() -> None:
        wandb.grow(run, rows)
        run.summary = {"a": {"b": 1.0}, "c.d": 2.0}

    wandb.fail("RunFiles", before=grow)
    source = source_of(wandb, "paths")
    items = source.read(only_run(source), {})
    keys = {item.key for item in items if isinstance(item, Series)}
    assert keys == {("x",), ("a", "b"), ("c.d",)}


def test_keys_of_a_row_come_in_one_order(wandb: WandbServer) -> None:
    """That of a local log: by first row, then by key. A null below a key is nested as it was."""
    late, row = {"z": 1.0, "a@b": 1.0}, {"x@y": 1.0, "t": "a", "n": {"w": None}, "x#y": 2.0}
    wandb.add_run("order", "r", rows=[row, late])
    source = source_of(wandb, "order")
    items = list(source.read(only_run(source), {}))
    keys = [item.key for item in items if isinstance(item, Series) and item.kind != "system"]
    assert keys == [("x#y",), ("x@y",), ("a@b",), ("z",)]
    (objects,) = [item for item in items if isinstance(item, RowObjects)]
    assert list(objects.values) == [("n", "w"), ("t",)]


def test_exports_that_overlap_are_read_without_doubles(wandb: WandbServer) -> None:
    """Two files that share rows, in the wrong order: each row once."""
    run = wandb.add_run("overlap", "r", rows=ROWS)
    wandb.parquet(run, 60)
    other = wandb.add_run("overlap-other", "r", rows=ROWS[40:])
    wandb.parquet(other)
    run.history.exports.insert(0, other.history.exports[0])
    run.history.live.clear()
    run.history.__class__ = Counted
    assert_rows(read_run(source_of(wandb, "overlap")), ROWS)


def test_an_export_out_of_order_is_sorted(wandb: WandbServer) -> None:
    """Steps that fall inside a file are yielded in order, and checkpoints are right."""
    run = wandb.add_run("unsorted", "r", rows=[*ROWS[50:], *ROWS[:50]])
    wandb.parquet(run)
    read = read_run(source_of(wandb, "unsorted"))
    assert_rows(read, ROWS)
    assert [step for step, _, _ in read.points["loss"]] == [row["_step"] for row in ROWS]


# -- misbehaviour -----------------------------------------------------------------------------


@pytest.fixture
def live(wandb: WandbServer, request: pytest.FixtureRequest) -> WandbServerSource:
    """A hundred rows in ten pages."""
    name = f"faulty-{request.node.name}"[:60].replace("[", "-").replace("]", "")
    wandb.add_run(name, "r", rows=ROWS)
    return source_of(wandb, name, page_rows=10)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "retry_after": 0.3},
        {"status": 500},
        {"status": 502, "times": 3},
        {"drop_after_bytes": 0},
        {"drop_after_bytes": 60},
        {"delay": 0.5},
    ],
    ids=str,
)
def test_a_fault_at_page_seven_is_survived(
    wandb: WandbServer, live: WandbServerSource, fault: dict[str, Any]
) -> None:
    """Refusals, cut answers and slow pages: the rows are all there, once."""
    rule = wandb.fail("HistoryPage", skip=6, **fault)
    read = read_run(live)
    assert rule.hits == fault.get("times", 1)
    assert_rows(read, ROWS)
    again = 0 if "delay" in fault else rule.hits
    assert live.calls["HistoryPage"] == 10 + again


def test_a_page_held_up_for_long_is_waited_for(wandb: WandbServer, live: WandbServerSource) -> None:
    """A slow page is not requested twice."""
    gate = threading.Event()
    wandb.fail("HistoryPage", skip=6, gate=gate, delay=0.2)
    opener = threading.Timer(0.6, gate.set)
    opener.start()
    assert_rows(read_run(live), ROWS)
    opener.join()
    assert live.calls["HistoryPage"] == 10


@pytest.mark.parametrize(
    ("operation", "fault", "message"),
    [
        ("HistoryPage", {"status": 400}, "answered 400: the test told the server to refuse"),
        ("HistoryPage", {"status": 500}, "answered 500"),
        ("HistoryPage", {"drop_after_bytes": 60}, "did not answer"),
        ("RunParquetHistory", {"status": 403}, "answered 403"),
        ("Run", {"status": 404}, "answered 404"),
    ],
)
def test_a_fault_that_stays_is_one_clear_line(
    wandb: WandbServer, operation: str, fault: dict[str, Any], message: str
) -> None:
    """The read fails with a message of one line, and yields no final run."""
    run = wandb.add_run(f"broken-{operation}-{fault}", "r", rows=ROWS)
    wandb.fail(operation, skip=1 if operation == "HistoryPage" else 0, times=None, **fault)
    source = source_of(wandb, run.project.name, patience_s=1, page_rows=10)
    info, read = only_run(source), Read()
    with pytest.raises(SourceError, match=message) as caught:
        gather(source.read(info, {}), read)
    assert "\n" not in str(caught.value)
    assert max(read.marks, default=0) <= 20


def test_an_export_cut_short_is_fetched_again(wandb: WandbServer) -> None:
    """An incomplete file is not accepted."""
    run = wandb.add_run("cut", "r", rows=ROWS)
    wandb.parquet(run)
    rule = wandb.fail("GET /storage/*history.parquet", drop_after_bytes=100)
    assert_rows(read_run(source_of(wandb, "cut")), ROWS)
    assert rule.hits == 1


@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_damaged_export_leaves_the_run_partial_until_it_can_be_read(
    wandb: WandbServer, spoilt: int, fresh_store: str
) -> None:
    """All other rows are carried, the run is not complete, and the next backfill completes it."""
    name = f"spoilt{spoilt}"
    run = wandb.add_run(name, "r", rows=[{"a": i} for i in range(30)])
    wandb.parquet(run, 20, files=2)
    file = wandb.store.blobs[run.history.exports[spoilt].path.name].path
    whole = file.read_bytes()
    file.write_bytes(whole[:-8] + b"nonsense")
    source, target = source_of(wandb, name), MlflowTarget(fresh_store)
    (outcome,) = backfill(source, target, Selection())
    lost = range(10 * spoilt, 10 * spoilt + 10)
    there = read_runs(fresh_store)["r"]
    assert there.points("a") == [(i, float(i)) for i in range(30) if i not in lost]
    assert there.tags["mlflow.wandb.state"] == "partial"
    assert any("an export of W&B cannot be read" in str(one) for one in outcome.unreadable)
    file.write_bytes(whole)
    (outcome,) = backfill(source, target, Selection())
    assert outcome.action == "repaired"
    there = read_runs(fresh_store)["r"]
    assert there.points("a") == [(i, float(i)) for i in range(30)]
    assert there.tags["mlflow.wandb.state"] == "complete"


def test_an_export_that_arrives_damaged_once_is_fetched_again(wandb: WandbServer) -> None:
    """Of the right length and with a wrong footer."""
    run = wandb.add_run("spoilt-once", "r", rows=ROWS)
    wandb.parquet(run)
    file = wandb.store.blobs[run.history.exports[0].path.name].path
    whole = file.read_bytes()
    wandb.fail(
        f"GET /storage/*{file.name}*", before=lambda: file.write_bytes(whole[:-8] + b"nonsense"),
        then=lambda: file.write_bytes(whole),
    )  # fmt: skip
    read = read_run(source_of(wandb, "spoilt-once"))
    assert_rows(read, ROWS)
    assert (read.unreadable, read.last.missing) == ([], False)


def damage_page(content: bytes, key: str) -> bytes:
    """An export whose footer is sound, and of whose column ``key`` the last page is not."""
    metadata = pq.read_metadata(pa.BufferReader(content))
    names = [metadata.row_group(0).column(i).path_in_schema for i in range(metadata.num_columns)]
    column = metadata.row_group(0).column(names.index(key))
    end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    assert end < len(content) - 8
    return content[: end - 60] + b"\xff" * 60 + content[end:]


@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_damaged_page_leaves_the_run_partial_until_it_can_be_read(
    wandb: WandbServer, spoilt: int, fresh_store: str
) -> None:
    """Behind a good footer: the export is fetched again once, its rows are counted, all others are
    carried, and the next backfill completes the run."""
    name = f"page{spoilt}"
    rows = [{"a": i, "text": f"text {i}"} for i in range(300)]
    run = wandb.add_run(name, "r", rows=rows)
    wandb.parquet(run, 200, files=2)
    file = wandb.store.blobs[run.history.exports[spoilt].path.name].path
    whole = file.read_bytes()
    file.write_bytes(damage_page(whole, "text"))
    source, target = source_of(wandb, name), MlflowTarget(fresh_store)
    (outcome,) = backfill(source, target, Selection())
    lost = range(100 * spoilt, 100 * spoilt + 100)
    there = read_runs(fresh_store)["r"]
    assert there.points("a") == [(i, float(i)) for i in range(300) if i not in lost]
    assert there.tags["mlflow.wandb.state"] == "partial"
    told = [str(one) for one in outcome.unreadable]
    assert any("100 rows" in one for one in told), told
    assert any("an export of W&B cannot be read" in one for one in told), told
    assert source.calls["download"] == 3
    file.write_bytes(whole)
    (outcome,) = backfill(source_of(wandb, name), target, Selection())
    there = read_runs(fresh_store)["r"]
    assert there.points("a") == [(i, float(i)) for i in range(300)]
    assert there.tags["mlflow.wandb.state"] == "complete"


def test_a_page_that_arrives_damaged_once_is_fetched_again(wandb: WandbServer) -> None:
    """Rows that were read before the damage come once."""
    run = wandb.add_run("page-once", "r", rows=ROWS)
    wandb.parquet(run)
    file = wandb.store.blobs[run.history.exports[0].path.name].path
    whole = file.read_bytes()
    wandb.fail(
        f"GET /storage/*{file.name}*",
        before=lambda: file.write_bytes(damage_page(whole, "slashed/key")),
        then=lambda: file.write_bytes(whole),
    )  # fmt: skip
    source = source_of(wandb, "page-once")
    read = read_run(source)
    assert_rows(read, ROWS)
    assert (read.unreadable, read.last.missing) == ([], False)
    assert source.calls["download"] == 2


def test_a_damaged_page_of_rows_carried_before_keeps_a_resumed_run_from_completeness(
    wandb: WandbServer,
) -> None:
    """Last values of the summary are read from there."""
    run = wandb.add_run("page-resumed", "r", rows=[{"a": i, "text": f"t{i}"} for i in range(100)])
    run.history.append([{"_step": 100, "b": 1}])
    wandb.parquet(run, 100)
    file = wandb.store.blobs[run.history.exports[0].path.name].path
    file.write_bytes(damage_page(file.read_bytes(), "text"))
    read = read_run(source_of(wandb, "page-resumed"), since={SERVER: 100})
    assert read.last.missing
    assert "an export of W&B cannot be read" in str(read.unreadable[0])


def test_an_export_that_cannot_be_downloaded_is_an_error(wandb: WandbServer) -> None:
    """Cut again and again, it ends the read."""
    run = wandb.add_run("always-cut", "r", rows=ROWS)
    wandb.parquet(run)
    wandb.fail("GET /storage/*history.parquet", drop_after_bytes=100, times=None)
    with pytest.raises(SourceUnavailableError, match="did not answer"):
        read_run(source_of(wandb, "always-cut", patience_s=1))


# -- bounds -----------------------------------------------------------------------------------


def test_blocks_are_bounded(wandb: WandbServer) -> None:
    """For runs of any length and width, at most one block of points is between two checkpoints."""
    run = wandb.add_run("long", "r")
    wandb.add_long_history(run, 150_000, keys=5)
    source = source_of(wandb, "long")
    points, total, largest = 0, 0, 0
    for item in source.read(only_run(source), {}):
        if isinstance(item, Series):
            assert len(item.steps) == len(item.timestamps_ms) == len(item.values)
            points += len(item.values)
        elif isinstance(item, Checkpoint):
            total, largest, points = total + points, max(largest, points), 0
    assert total == 750_000
    assert largest <= BLOCK_POINTS


def test_wide_rows_are_read_in_small_pages(wandb: WandbServer) -> None:
    """A thousand keys a row are asked for two hundred rows at a time."""
    rows = [{f"k{n}": float(i) for n in range(1000)} for i in range(250)]
    wandb.add_run("wide", "r", rows=rows)
    source = source_of(wandb, "wide")
    read = read_run(source)
    assert len(read.points) == 1000
    assert read.values("k999") == {i: float(i) for i in range(250)}
    assert source.calls["HistoryPage"] == 2


def test_a_row_that_is_no_json_is_an_error(wandb: WandbServer) -> None:
    """A page that cannot be parsed ends the read instead of losing its rows."""
    run = wandb.add_run("no-json", "r", rows=ROWS[:5])
    line = run.history.live[2]
    run.history.live[2] = line._replace(text=json.dumps(line.row)[:-3])
    with pytest.raises(SourceError, match="not JSON"):
        read_run(source_of(wandb, "no-json"))
