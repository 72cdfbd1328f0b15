"""Logs are found whatever their folders are called, and what is no log is named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mlflow_wandb_plugin import backfill
from mlflow_wandb_plugin.core.model import FileRef, Selection
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from tests.sources.wandb_local.test_source import FIRST, row, wandb_file
from tests.support.mlflow_state import read_runs
from tests.support.records import exit_record, run_record


def log(folder: Path, run_id: str = "r1", start_s: int = 1_700_000_000, rows: int = 1) -> Path:
    """A run folder of wandb's own name with a log and a file of the run; returns the folder."""
    first = run_record(run_id, start_s * 1000)
    segment = f"20260101_000000-{run_id}"
    path = wandb_file(folder, segment, first, *map(row, range(rows)), exit_record())
    (path.parent / "files").mkdir()
    (path.parent / "files" / "output.log").write_text(run_id)
    return path.parent


def ids(place: Path, recursive: bool = False) -> list[str]:
    return [run.run_id for run in WandbDir(place, recursive=recursive).runs(Selection())]


@pytest.mark.parametrize("name", ["kept", "run-old", "20240101", "a b"])
def test_a_renamed_run_folder_is_found(tmp_path: Path, name: str) -> None:
    """From the project, the wandb folder, the folder itself, and by its log; with its files."""
    folder = log(tmp_path / "wandb").rename(tmp_path / "wandb" / name)
    for place in (tmp_path, tmp_path / "wandb", folder, folder / "run-r1.wandb"):
        source = WandbDir(place)
        (run,) = source.runs(Selection())
        assert run.run_id == "r1"
        found = [item for item in source.read(run, {}) if isinstance(item, FileRef)]
        assert [ref.local.read_text() for ref in found] == ["r1"]


def test_a_link_is_its_target_and_not_a_second_run(tmp_path: Path) -> None:
    """``latest-run`` can be passed, and is not read again beside its run folder."""
    folder = log(tmp_path / "wandb")
    (tmp_path / "wandb" / "latest-run").symlink_to(folder.name)
    (run,) = WandbDir(tmp_path / "wandb" / "latest-run").runs(Selection())
    assert run.segments == (FIRST,)
    assert ids(tmp_path) == ["r1"]


def test_a_link_to_a_run_folder_elsewhere_is_a_run(tmp_path: Path) -> None:
    """Its name is that of the folder it leads to."""
    folder = log(tmp_path / "scratch")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "mine").symlink_to(folder)
    (run,) = WandbDir(tmp_path / "wandb").runs(Selection())
    assert (run.run_id, run.segments) == ("r1", (FIRST,))


def test_loose_logs_are_runs_without_files(tmp_path: Path) -> None:
    """A folder of logs has no folder of files that belongs to one of them."""
    for number in range(3):
        folder = log(tmp_path / "made", f"r{number}", 1_700_000_000 + number)
        (tmp_path / "loose").mkdir(exist_ok=True)
        shutil.move(folder / f"run-r{number}.wandb", tmp_path / "loose")
    (tmp_path / "loose" / "files").mkdir()
    (tmp_path / "loose" / "files" / "whose.txt").write_text("?")
    source = WandbDir(tmp_path / "loose")
    runs = list(source.runs(Selection()))
    assert [run.run_id for run in runs] == ["r0", "r1", "r2"]
    assert not [item for run in runs for item in source.read(run, {}) if isinstance(item, FileRef)]


def test_loose_logs_of_one_run_are_read_in_the_order_of_time(
    tmp_path: Path, fresh_store: str
) -> None:
    """Both are called after the run; they are two logs of a resumed run."""
    later = log(tmp_path / "b", start_s=1_700_000_500, rows=3).rename(tmp_path / "x")
    earlier = log(tmp_path / "a", start_s=1_700_000_000, rows=2).rename(tmp_path / "y")
    assert later.name < earlier.name
    (run,) = WandbDir(tmp_path).runs(Selection())
    assert len(run.segments) == 2
    assert run.started_ms == 1_700_000_000_000
    (outcome,) = backfill(str(tmp_path), fresh_store)
    assert outcome.action == "migrated"
    assert read_runs(fresh_store)["r1"].points("a") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    (again,) = backfill(str(tmp_path), fresh_store)
    assert (again.action, again.verdict) == ("skipped", "existing")


def test_a_copy_is_read_once_and_named(tmp_path: Path) -> None:
    """The longer of two is read, because the other was copied while the run went on."""
    folder = log(tmp_path / "wandb", rows=3)
    copy = shutil.copytree(folder, tmp_path / "wandb" / "backup")
    os.truncate(copy / "run-r1.wandb", (copy / "run-r1.wandb").stat().st_size - 20)
    source = WandbDir(tmp_path)
    (run,) = source.runs(Selection())
    assert run.segments == (FIRST,)
    (other,) = source.unreadable
    assert (other.where, other.length) == ("run-r1.wandb", 0)
    assert f"{copy / 'run-r1.wandb'}: a copy of {folder / 'run-r1.wandb'}" in other.reason


def test_all_logs_below_a_project_are_found_on_request(tmp_path: Path, fresh_store: str) -> None:
    """At any depth; without it, the nearest folders that were left out are named."""
    log(tmp_path / "wandb", "near")
    log(tmp_path / "outputs" / "wandb", "two", 1_700_000_001)
    log(tmp_path / "outputs" / "2024" / "12-00" / "wandb", "three", 1_700_000_002)
    assert set(ids(tmp_path, recursive=True)) == {"near", "two", "three"}
    outcomes = {one.run.run_id: one for one in backfill(str(tmp_path), fresh_store)}
    assert outcomes["near"].action == "migrated"
    assert outcomes["wandb"].action == "skipped"
    assert "outputs/wandb: not looked at: pass --recursive" in outcomes["wandb"].reason
    backfill(str(tmp_path), fresh_store, recursive=True)
    assert set(read_runs(fresh_store)) == {"near", "two", "three"}


def test_folders_without_a_log_are_in_the_report(tmp_path: Path, fresh_store: str) -> None:
    """Run folders whose log is gone and others among the runs; not what wandb keeps there."""
    log(tmp_path / "wandb")
    for name in ("run-20240101_000000-gone", "old-runs", "sweep-abc", "mlflow", ".cache"):
        (tmp_path / "wandb" / name).mkdir()
        (tmp_path / "wandb" / name / "something").write_text("x")
    (tmp_path / "wandb" / "run-20240101_000000-empty").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.csv").write_text("x")
    outcomes = {one.run.run_id: one for one in backfill(str(tmp_path), fresh_store)}
    assert set(outcomes) == {"r1", "run-20240101_000000-gone", "old-runs"}
    assert outcomes["old-runs"].action == "skipped"
    assert "no .wandb file in it: it was not read" in outcomes["old-runs"].reason
