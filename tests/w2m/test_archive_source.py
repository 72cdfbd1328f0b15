"""Archives that export-wandb-to-mlflow wrote: everything in them is read, or reported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin import backfill
from mlflow_wandb_plugin.archive.target import create_archive, open_archive
from mlflow_wandb_plugin.core.model import RunInfo, Selection, Series, UnreadableRange
from mlflow_wandb_plugin.errors import SourceError, UsageError
from mlflow_wandb_plugin.w2m.archive_source import EwmArchive
from tests.support.ewm import write_project, write_run
from tests.support.mlflow_state import read_runs
from tests.wandb_server import WandbServer

START = 1_714_564_800_000
"""2024-05-01T12:00:00 UTC, in ms."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive of one project with one run that holds each kind of thing."""
    project = write_project(tmp_path / "migrations", "test-llama3")
    write_run(
        project,
        "abc123",
        tags={"run_group": "a, group", "wandb_run_name": "lr=0.1, wd=0.2 "},
        config={"lr": 0.1, "opt": {"name": "adam", "betas": [0.9]}, "text": "{no json", "n": None},
        metrics={
            "train.loss": [(2.5, START + 1000, 0), (math.nan, START + 2000, 1)],
            "acc": [(1, START + 1000, 0), (math.inf, START + 2000, 7)],
            "flag": [(True, START + 1000, 0), (False, START + 2000, 1)],
            "recall@5": [(0.5, START + 1000, 3)],
            "_runtime": [(1.5, START + 1000, 0)],
        },
        system={"system/cpu_utilization_percentage": [(5.0, 0, 0), (6.5, 1, 1)]},
    )
    return tmp_path / "migrations"


def test_a_run_arrives_in_mlflow(root: Path, fresh_store: str) -> None:
    """Name, group, nested config, each point with its time and step, and system metrics."""
    [outcome] = backfill(f"archive:{root}", fresh_store)
    assert (outcome.action, outcome.unreadable, outcome.losses) == ("migrated", (), {})
    run = read_runs(fresh_store)["abc123"]
    assert (run.name, run.status, run.start) == ("lr=0.1, wd=0.2 ", "FINISHED", START)
    assert (run.tags["run_group"], run.tags["wandb.project"]) == ("a, group", "test-llama3")
    assert run.tags["mlflow.wandb.state"] == "complete"
    assert run.params == {
        "lr": "0.1", "opt.name": "adam", "opt.betas": "[0.9]", "text": "{no json", "n": "None",
    }  # fmt: skip
    assert run.metrics == {
        "train/loss": [(2.5, START + 1000, 0), ("nan", START + 2000, 1)],
        "acc": [(1.0, START + 1000, 0), (1.7976931348623157e308, START + 2000, 7)],
        "flag": [(1.0, START + 1000, 0), (0.0, START + 2000, 1)],
        "recall_5": [(0.5, START + 1000, 3)],
        "system/cpu_utilization_percentage": [(5.0, START, 0), (6.5, START + 1000, 1)],
    }


def test_a_run_arrives_in_wandb(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that have a value at one step share its row; that tool wrote a slash as a dot."""
    with WandbServer(tmp_path / "server") as server:
        monkeypatch.setenv("MLFLOW_WANDB_TARGET_API_KEY", server.api_key)
        for action in ("migrated", "skipped"):
            [outcome] = backfill(f"archive:{root}", f"wandb+{server.url}/tester/back")
            assert (outcome.action, outcome.losses) == (action, {})
        run = server.run("back/abc123")
        rows = {line.row["_step"]: dict(line.row) for line in run.history.live}
        assert not server.executor.unknown
    assert (run.display_name, run.group, run.state) == ("lr=0.1, wd=0.2 ", "a, group", "finished")
    assert {key: run.values[key] for key in ("lr", "opt", "text", "n")} == {
        "lr": 0.1, "opt": {"name": "adam", "betas": [0.9]}, "text": "{no json", "n": None,
    }  # fmt: skip
    found = {
        step: {key: str(value) for key, value in row.items() if not key.startswith("_")}
        for step, row in rows.items()
    }
    assert found == {
        0: {"train/loss": "2.5", "acc": "1", "flag": "1"},
        1: {"train/loss": "nan", "flag": "0"},
        3: {"recall@5": "0.5"},
        7: {"acc": "inf"},
    }
    assert rows[1]["_timestamp"] * 1000 == START + 2000


def test_a_second_pass_skips_it(root: Path, fresh_store: str) -> None:
    """A completely loaded run is found by its W&B id."""
    for action in ("migrated", "skipped"):
        assert [o.action for o in backfill(f"archive:{root}", fresh_store)] == [action]


def test_root_project_and_run_are_sources_alike(root: Path) -> None:
    """``dry_run_save_dir``, a project's folder in it, and a run's folder can each be named."""
    for path in (root, root / "test-llama3", root / "test-llama3" / "abc123"):
        source = open_archive(f"archive:{path}")
        assert isinstance(source, EwmArchive)
        [run] = source.runs(Selection())
        assert (run.project, run.run_id, run.started_ms) == ("test-llama3", "abc123", START)
        assert source.size(run).points == 9


def test_the_project_is_named_by_its_tags_not_its_folder(tmp_path: Path) -> None:
    """That tool called the folder after ``--mlflow_experiment_name``."""
    write_run(write_project(tmp_path, "wandb-name", folder="mlflow-name"), "r1")
    [run] = open_archive(f"archive:{tmp_path}").runs(Selection())
    assert run.project == "wandb-name"


def test_runs_are_listed_by_their_creation_time(tmp_path: Path) -> None:
    """Oldest first, or newest first where that is asked for; without a time, by the first point."""
    project = write_project(tmp_path, "p")
    for run_id, day in (("b", 2), ("a", 3), ("c", 1)):
        write_run(project, run_id, tags={"wandb_run_created_at": f"2024-05-0{day}T00:00:00Z"})
    write_run(project, "d", tags={"wandb_run_created_at": ""}, metrics={"x": [(1, 5000, 0)]})
    for newest_first, wanted in ((False, "dcba"), (True, "abcd")):
        runs = open_archive(f"archive:{tmp_path}").runs(Selection(newest_first=newest_first))
        assert [run.run_id for run in runs] == [*wanted]


def test_an_export_that_was_cut_short_is_loaded_as_partial(
    tmp_path: Path, fresh_store: str
) -> None:
    """Its last line and its params may be missing: both are reported, the rest arrives."""
    project = write_project(tmp_path, "p")
    points = [(float(step), START + step, step) for step in range(3)]
    folder = write_run(project, "cut", metrics={"loss": points}, complete=False)
    with open(folder / "metrics" / "loss.csv", "a") as file:
        file.write("3.0, 17145648")
    (folder / "params.json").unlink()
    [outcome] = backfill(f"archive:{tmp_path}", fresh_store)
    assert outcome.action == "migrated"
    assert {Path(unreadable.where).name for unreadable in outcome.unreadable} == {
        "loss.csv",
        "params.json",
    }
    [torn] = [unreadable for unreadable in outcome.unreadable if unreadable.length]
    size = (folder / "metrics" / "loss.csv").stat().st_size
    assert (torn.offset, torn.offset + torn.length) == (size - 13, size)
    run = read_runs(fresh_store)["cut"]
    assert run.points("loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert run.tags["mlflow.wandb.state"] == "partial"


@pytest.mark.parametrize(
    "line",
    ["", "1.0", "1.0, 5", "1,5, 1714564800000, 4", "x, 1, 2", "1.0, 1.5, 2", "\ufffd", '"1", 2, 3'],
)
def test_a_line_that_is_no_point_is_reported_and_the_rest_is_read(
    tmp_path: Path, line: str
) -> None:
    """Damage is reported, and the run is incomplete."""
    project = write_project(tmp_path, "p")
    folder = write_run(project, "r", metrics={"loss": [(1.0, START, 0), (2.0, START + 1, 1)]})
    table = folder / "metrics" / "loss.csv"
    first, second = table.read_text().splitlines(keepends=True)
    table.write_text(f"{first}{line}\n{second}")
    source = open_archive(f"archive:{tmp_path}")
    [run] = source.runs(Selection())
    items = list(source.read(run, {}))
    [unreadable] = [item for item in items if isinstance(item, UnreadableRange)]
    assert (unreadable.where, unreadable.offset) == (str(table), len(first))
    assert unreadable.length == len(line.encode()) + 1
    values = [value for item in items if isinstance(item, Series) for value in item.values]
    assert values == [1.0, 2.0]
    assert isinstance(items[-1], RunInfo)
    assert items[-1].missing


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("wandb_run_name, a, b, c\n", "a, b, c"),
        ("wandb_run_name, two\nlines, and more\n", "two\nlines, and more"),
        ("wandb_run_name, \n", ""),
        ("wandb_run_name, x\r\n", "x"),
        ("wandb_run_name, old\nwandb_run_name, new\n", "new"),
        ('wandb_run_name, "quoted", it seems\n', '"quoted", it seems'),
    ],
)
def test_tags_that_are_not_quoted_are_read_completely(tmp_path: Path, text: str, name: str) -> None:
    """Commas, quotes and line ends in a name are part of it."""
    folder = write_run(write_project(tmp_path, "p"), "r")
    (folder / "tags.csv").write_bytes(b"wandb_run_id, r\n" + text.encode())
    [run] = open_archive(f"archive:{tmp_path}").runs(Selection())
    assert (run.run_id, run.name) == ("r", name)


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1', "\x00"])
def test_damaged_params_are_reported(tmp_path: Path, text: str) -> None:
    """The run's points arrive all the same."""
    folder = write_run(write_project(tmp_path, "p"), "r", metrics={"x": [(1, START, 0)]})
    (folder / "params.json").write_text(text)
    source = open_archive(f"archive:{tmp_path}")
    [run] = source.runs(Selection())
    items = list(source.read(run, {}))
    assert [Path(i.where).name for i in items if isinstance(i, UnreadableRange)] == ["params.json"]
    assert [i.key for i in items if isinstance(i, Series)] == [("x",)]


def test_reading_resumes_after_the_last_checkpoint(tmp_path: Path) -> None:
    """Tables that were copied are not sent again; a long one is yielded in bounded blocks."""
    points = [(step, START + step, step) for step in range(120_000)]
    project = write_project(tmp_path, "p")
    write_run(project, "r", metrics={"a": points, "b": points[:5]})
    source = open_archive(f"archive:{tmp_path}")
    [run] = source.runs(Selection())
    items = list(source.read(run, {}))
    lengths = [(i.key, len(i.values)) for i in items if isinstance(i, Series)]
    assert lengths == [(("a",), 50_000), (("a",), 50_000), (("a",), 20_000), (("b",), 5)]
    marks = [i for i in items if not isinstance(i, (Series, RunInfo))]
    since: dict[str, Any] = {mark.segment: mark.position for mark in marks[:1]}
    rest = list(source.read(run, since))
    assert [i.key for i in rest if isinstance(i, Series)] == [("b",)]
    assert rest[-1] == items[-1]
    end = rest[-1]
    assert isinstance(end, RunInfo)
    assert (end.last_step, end.last_ms) == (119_999, START + 119_999)


def test_our_archive_is_not_mixed_with_theirs(root: Path, tmp_path: Path) -> None:
    """A folder with such an archive is no target; theirs can be carried into one of ours."""
    with pytest.raises(UsageError, match="export-wandb-to-mlflow"):
        create_archive(f"archive:{root}")
    [outcome] = backfill(f"archive:{root}", f"archive:{tmp_path / 'ours'}")
    assert outcome.action == "migrated"
    [run] = open_archive(f"archive:{tmp_path / 'ours'}").runs(Selection())
    assert (run.project, run.run_id) == ("test-llama3", "abc123")
    assert run.config["opt"] == {"name": "adam", "betas": [0.9]}


def test_a_run_that_is_not_there_is_one_clear_line(root: Path) -> None:
    """An unknown run, and a folder that emptied after it was opened."""
    source = open_archive(f"archive:{root}")
    with pytest.raises(SourceError, match="no run"):
        source.size(RunInfo("other", "test-llama3"))
    (root / "test-llama3" / "abc123").rename(root.parent / "away")
    with pytest.raises(SourceError, match="no runs"):
        list(source.runs(Selection()))


def test_json_in_params_becomes_what_it_was(tmp_path: Path) -> None:
    """Only objects were written as text; text that merely looks so stays text."""
    config = {"a": {"b": {"c": 1}}, "list": [1], "text": "[1]", "open": "{", "nan": math.nan}
    write_run(write_project(tmp_path, "p"), "r", config=config)
    [run] = open_archive(f"archive:{tmp_path}").runs(Selection())
    assert json.dumps(run.config) == json.dumps(config)
    assert run.first_config["a", "b", "c"] == 1
