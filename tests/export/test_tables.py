"""Runs and their history as tables, from a folder and from a W&B server."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

import mlflow_wandb_plugin
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.export.tables import ExportOptions, export
from tests.support.commands import main_in_process
from tests.support.environment import isolated
from tests.support.processes import run_script
from tests.support.wandb_source import source_of
from tests.wandb_server import WandbServer

SCRIPT = """
import wandb
for number, lr in enumerate((0.3, 0.1, 0.2)):
    with wandb.init(project="tables", id=f"r{number}", name=f"name {number}", tags=["x", "y"],
                    group="g", notes="a note", config={"lr": lr, "o": {"p": [1, 2]}}) as run:
        for i in range(4):
            run.log({"loss": lr / (i + 1), "n": {"a": i}, **({"text": f"t{i}"} if i % 2 else {}),
                     "odd": [float("nan"), float("inf"), 1.5, -2][i]})
        run.summary["best"] = 10 * number
"""
LOSSES = {f"r{n}": [lr / (i + 1) for i in range(4)] for n, lr in enumerate((0.3, 0.1, 0.2))}

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wandb folder with three runs."""
    place = tmp_path_factory.mktemp("tables")
    run_script(SCRIPT, isolated(place), place / "work")
    return place / "work" / "wandb"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """``mlflow-wandb export``: exit code, stdout, stderr."""

    return partial(main_in_process, capsys, monkeypatch, "export")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_row_has_what_describes_a_run(folder: Path, tmp_path: Path, command: Command) -> None:
    """Name, state, times, config and summary, as they were logged, in each format."""
    for suffix in (".csv", ".jsonl", ".parquet"):
        code, out, _ = command(folder, "--to", tmp_path / f"runs{suffix}")
        assert (code, out) == (0, f"{tmp_path / f'runs{suffix}'}: 3 runs, 3 rows\n")
    table = read_csv(tmp_path / "runs.csv")
    assert [row["run_id"] for row in table] == ["r0", "r1", "r2"]
    first = table[0]
    wanted = {
        "name": "name 0", "state": "finished", "project": "tables", "group": "g",
        "tags": '["x", "y"]', "notes": "a note", "exit_code": "0", "config.lr": "0.3",
        "config.o.p": "[1, 2]", "summary.best": "0", "summary.text": "t3",
    }  # fmt: skip
    assert {key: first[key] for key in wanted} == wanted
    assert (float(first["summary.loss"]), float(first["summary.n.a"])) == (0.3 / 4, 3)
    assert first["created_at"].endswith("Z")
    assert not [column for column in first if "_wandb" in column]
    lines = read_jsonl(tmp_path / "runs.jsonl")
    assert [(line["config.lr"], line["tags"]) for line in lines] == [
        (lr, ["x", "y"]) for lr in (0.3, 0.1, 0.2)
    ]
    parquet = pyarrow.parquet.read_table(tmp_path / "runs.parquet")
    assert parquet.column("config.lr").to_pylist() == [0.3, 0.1, 0.2]
    assert parquet.column("summary.best").to_pylist() == [0, 10, 20]
    assert str(parquet.schema.field("summary.best").type) == "int64"


def test_all_rows_of_the_history(folder: Path, tmp_path: Path, command: Command) -> None:
    """A row per step, with a column per key; and a row per value."""
    assert command(folder, "--to", tmp_path / "h.parquet", "--history")[0] == 0
    rows = pyarrow.parquet.read_table(tmp_path / "h.parquet").to_pylist()
    assert [(row["run_id"], row["_step"]) for row in rows] == [
        (run_id, step) for run_id in LOSSES for step in range(4)
    ]
    assert [row["loss"] for row in rows] == [loss for losses in LOSSES.values() for loss in losses]
    assert [row["text"] for row in rows[:4]] == [None, "t1", None, "t3"]
    assert math.isnan(rows[0]["odd"])
    assert [row["odd"] for row in rows[1:4]] == [math.inf, 1.5, -2.0]
    command(folder, "--to", tmp_path / "h.csv", "--history", "long", "--run", "r1")
    values = read_csv(tmp_path / "h.csv")
    losses = [float(row["value"]) for row in values if row["key"] == "loss"]
    assert losses == LOSSES["r1"]
    assert [row["text"] for row in values if row["key"] == "text"] == ["t1", "t3"]
    odd = [row["value"] for row in values if row["key"] == "odd"]
    assert odd == ["NaN", "inf", "1.5", "-2.0"]


@pytest.mark.parametrize(
    ("order", "ids"),
    [
        ("created", ["r0", "r1", "r2"]),
        ("-created", ["r2", "r1", "r0"]),
        ("config.lr", ["r1", "r2", "r0"]),
        ("-summary.best", ["r2", "r1", "r0"]),
        ("summary.nothing", ["r0", "r1", "r2"]),
    ],
)
def test_rows_are_ordered(
    folder: Path, tmp_path: Path, command: Command, order: str, ids: list[str]
) -> None:
    """By creation, or by a key of the config or the summary; also the runs of a history."""
    command(folder, "--to", tmp_path / "runs.jsonl", "--order", order, "--columns", "run_id")
    assert read_jsonl(tmp_path / "runs.jsonl") == [{"run_id": run_id} for run_id in ids]
    command(folder, "--to", tmp_path / "h.jsonl", "--history", "--order", order)
    found = [line["run_id"] for line in read_jsonl(tmp_path / "h.jsonl")]
    assert found == [run_id for run_id in ids for _ in range(4)]


def test_columns_are_chosen(folder: Path, tmp_path: Path, command: Command) -> None:
    """In the order that is given; `*` stands for several, an unknown name for an empty column."""
    columns = "name,config.*,summary.best,absent"
    command(folder, "--to", tmp_path / "runs.csv", "--columns", columns, "--run", "r2")
    (row,) = read_csv(tmp_path / "runs.csv")
    assert list(row.items()) == [
        ("name", "name 2"), ("config.lr", "0.2"), ("config.o.p", "[1, 2]"),
        ("summary.best", "20"), ("absent", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--to", "runs.xlsx"], "--to runs.xlsx: the name must end in .csv, .parquet, .jsonl"),
        (["--to", "runs.csv", "--order", "loss"], "--order loss: pass created, config.KEY or"),
        (["--to", "runs.csv", "--run", "nobody"], "no run is selected"),
    ],
)
def test_what_cannot_be_is_one_line(
    folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], line: str,
) -> None:  # fmt: skip
    """Exit code 2, and no file."""
    monkeypatch.chdir(tmp_path)
    code, out, err = command(folder, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert line in err
    assert list(tmp_path.iterdir()) == []


def test_from_python(folder: Path) -> None:
    """`runs` yields the rows as dicts, `history` is an Arrow table."""
    rows = list(mlflow_wandb_plugin.runs(str(folder)))
    assert [(row["name"], row["config.lr"]) for row in rows] == [
        ("name 0", 0.3), ("name 1", 0.1), ("name 2", 0.2)
    ]  # fmt: skip
    table = mlflow_wandb_plugin.history(str(folder), "name 1")
    assert table.column("loss").to_pylist() == LOSSES["r1"]
    assert table.column_names[:3] == ["run_id", "_step", "_timestamp"]


def test_a_server_gives_the_same_table(tmp_path: Path) -> None:
    """Config and summary come from the listing: no history and no file is asked for."""
    with WandbServer(tmp_path / "wandb") as server:
        for number in range(3):
            rows = [{"_step": i, "_timestamp": 1.7e9 + i, "loss": i / 7} for i in range(5)]
            server.add_run("tables", f"r{number}", config={"lr": number / 2}, rows=rows)
        source = source_of(server, "tables")
        done = export(source, tmp_path / "runs.jsonl", Selection(), ExportOptions())
        assert (done.runs, done.rows, done.unreadable) == (3, 3, ())
        assert set(source.calls) == {"Runs"}
        lines = read_jsonl(tmp_path / "runs.jsonl")
        assert [(line["config.lr"], line["summary.loss"]) for line in lines] == [
            (number / 2, 4 / 7) for number in range(3)
        ]
        export(source, tmp_path / "h.jsonl", Selection(), ExportOptions(history="wide"))
        lines = read_jsonl(tmp_path / "h.jsonl")
        assert [(line["run_id"], line["_step"], line["loss"]) for line in lines] == [
            (f"r{number}", i, i / 7) for number in range(3) for i in range(5)
        ]


def test_rows_that_the_server_does_not_give_are_reported(tmp_path: Path) -> None:
    """An export whose download is damaged, twice: the table has the other rows, and says so."""
    with WandbServer(tmp_path / "wandb") as server:
        run = server.add_run("damaged", "r", rows=[{"_step": i, "loss": i} for i in range(30)])
        server.parquet(run, 20, files=2)
        server.store.blobs[run.history.exports[0].path.name].path.write_bytes(b"nonsense")
        source = source_of(server, "damaged")
        done = export(source, tmp_path / "h.jsonl", Selection(), ExportOptions(history="wide"))
        assert [line["_step"] for line in read_jsonl(tmp_path / "h.jsonl")] == list(range(10, 30))
        assert len(done.unreadable) == 2
        assert "10 rows" in done.unreadable[0]
