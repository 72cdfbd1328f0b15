"""The real public API reads history: exports, live tail, samples."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from . import WandbServer
from .clients import Worker
from .compare import same

ROWS: list[dict[str, Any]] = [
    {
        "_step": i,
        "_timestamp": 1.7e9 + i,
        "_runtime": i / 2,
        "loss": 1 / (i + 1),
        "odd": [math.nan, math.inf, -math.inf][i % 3],
        "dotted.key": i,
        "slashed/key": f"text {i}",
        "big": 2**60 + i,
        "flag": i % 2 == 0,
        "image": {"_type": "image-file", "path": f"media/{i}.png", "size": i},
        "list": [i, i + 1],
        **({"rare": i} if i % 7 == 0 else {}),
    }
    for i in range(0, 200, 2)
]


def scan(reader: Worker, path: str, arguments: str = "") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = reader.call(
        f"""
        import wandb
        run = wandb.Api().run({path!r})
        result = list(run.scan_history(use_cache=False, {arguments}))
        """
    )
    return rows


@pytest.mark.parametrize("exported", [0, 1, 37, 99, 100])
@pytest.mark.parametrize("page_size", [30, 1000])
def test_a_scan_is_complete_wherever_the_live_tail_begins(
    server: WandbServer, reader: Worker, exported: int, page_size: int
) -> None:
    """Exports and live tail are the rows that were logged, once each, in order.

    The SDK gives every exported row all keys of its export, with None for those it lacked.
    """
    run = server.add_run("history", f"split-{exported}-{page_size}", rows=ROWS)
    server.parquet(run, exported, files=3)
    assert run.history.line_count == 100
    rows = scan(reader, f"history/{run.name}", f"page_size={page_size}")
    assert all("rare" in row for row in rows[:exported])
    assert same([{k: v for k, v in row.items() if v is not None} for row in rows], ROWS)


def test_a_growing_run_is_read_again_in_full(server: WandbServer, reader: Worker) -> None:
    """Rows that came after an export, and after a read, are there at the next read."""
    run = server.add_run("history", "growing", rows=[{"x": i} for i in range(10)], state="running")
    server.parquet(run)
    assert len(scan(reader, "history/growing")) == 10
    server.grow(run, [{"x": i} for i in range(10, 15)])
    assert [row["x"] for row in scan(reader, "history/growing")] == list(range(15))
    server.parquet(run, 3)
    assert [row["x"] for row in scan(reader, "history/growing")] == list(range(15))


def test_exports_are_downloaded_and_a_live_tail_is_announced(
    server: WandbServer, reader: Worker
) -> None:
    """The files hold the exported rows; incomplete history is an error when asked to be one."""
    run = server.add_run("history", "exported", rows=ROWS)
    server.parquet(run, 60, files=2)
    code = """
        import wandb, pyarrow.parquet as pq
        run = wandb.Api().run("history/exported")
        done = run.download_history_exports("exports", require_complete_history={})
        steps = [s for path in done.paths for s in pq.read_table(path)["_step"].to_pylist()]
        result = [done.contains_live_data, len(done.errors), sorted(steps)]
        """
    steps = [row["_step"] for row in ROWS]
    assert reader.call(code.format(False)) == [True, 0, steps[:60]]
    with pytest.raises(AssertionError, match="IncompleteRunHistoryError"):
        reader.call(code.format(True))
    server.parquet(run)
    assert reader.call(code.format(True)) == [False, 0, steps]


def test_exports_can_be_read_in_parts(server: WandbServer, reader: Worker) -> None:
    """A scan of some keys reads ranges of the export where it is, and sparse rows are dropped."""
    run = server.add_run("history", "ranges", rows=ROWS)
    server.parquet(run)
    before = len(server.asked("GET /storage/*"))
    rows = scan(reader, "history/ranges", "keys=['loss']")
    assert [row["loss"] for row in rows] == [row["loss"] for row in ROWS]
    parts = server.asked("GET /storage/*")[before:]
    assert {part.status for part in parts} == {206}


def test_an_empty_run_has_no_history(server: WandbServer, reader: Worker) -> None:
    """No rows, no last step."""
    server.add_run("history", "empty")
    assert scan(reader, "history/empty") == []


def test_samples_are_spread_over_exports_and_live_tail(server: WandbServer, reader: Worker) -> None:
    """A sample has as many rows as asked for, from the first to the last."""
    run = server.add_run("history", "sampled", rows=ROWS)
    server.parquet(run, 50)
    every, some, keyed = reader.call(
        """
        import wandb
        run = wandb.Api().run("history/sampled")
        result = (run.history(pandas=False), run.history(samples=10, pandas=False),
                  run.history(samples=5, keys=["odd", "loss"], pandas=False))
        """
    )
    assert same(every, ROWS)
    assert [row["_step"] for row in some] == list(range(0, 200, 22))
    assert [row["_step"] for row in keyed] == [0, 48, 98, 148, 198]
    assert keyed[0] == {"_step": 0, "odd": "NaN", "loss": 1.0}


def test_keys_are_counted_by_type(server: WandbServer, reader: Worker) -> None:
    """The keys of a history come with their types, over exports and live tail alike."""
    run = server.add_run("history", "typed", rows=ROWS)
    server.parquet(run, 10)
    keys, lines, last = reader.call(
        """
        import wandb
        run = wandb.Api().run("history/typed")
        run.load_full_data()
        result = run.history_keys["keys"], run.historyLineCount, run.lastHistoryStep
        """
    )
    counted = {key: value["typeCounts"] for key, value in keys.items()}
    assert counted["loss"] == [{"type": "number", "count": 100}]
    assert counted["slashed/key"] == [{"type": "string", "count": 100}]
    assert counted["image"] == [{"type": "image-file", "count": 100}]
    assert counted["rare"] == [{"type": "number", "count": 15}]
    assert (lines, last) == (100, 198)


def test_a_million_steps_are_cheap(server: WandbServer, reader: Worker) -> None:
    """A very long history is made, downloaded and sampled in seconds."""
    run = server.add_run("history", "long")
    server.add_long_history(run, 1_000_000, keys=5)
    server.grow(run, [{"key0": 7.0}])
    paths, last, sample, tail = reader.call(
        """
        import wandb
        run = wandb.Api().run("history/long")
        done = run.download_history_exports("long", require_complete_history=False)
        tail = list(run.scan_history(use_cache=False, min_step=999_998))
        sample = run.history(samples=50, pandas=False)
        result = len(done.paths), run.lastHistoryStep, len(sample), tail
        """
    )
    assert (paths, last, sample) == (1, 1_000_000, 50)
    assert [row["_step"] for row in tail] == [999_998, 999_999, 1_000_000]
    assert tail[0]["key0"] == 1 / 999_999
    assert tail[2] == {"_step": 1_000_000, "key0": 7.0}


def test_many_system_metrics_are_sampled(server: WandbServer, reader: Worker) -> None:
    """As few or as many lines of system metrics come back as are asked for."""
    events = [json.dumps({"system.cpu": i, "_timestamp": float(i)}) for i in range(1000)]
    server.add_run("history", "system", events=events)
    some, every = reader.call(
        """
        import wandb
        run = wandb.Api().run("history/system")
        read = lambda n: run.history(samples=n, stream="system", pandas=False)
        result = [[row["system.cpu"] for row in read(n)] for n in (10, 100_000)]
        """
    )
    assert some == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert every == list(range(1000))
