"""``mlflow-wandb summary`` of each kind of source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.protocols import Source, TargetOptions
from mlflow_wandb_plugin.export.overview import overview
from mlflow_wandb_plugin.plugins import open_source, open_target
from tests.backfill.fakes import MemorySource
from tests.backfill.written import ROWS, RUNS, make_folder
from tests.support.commands import main_in_process
from tests.support.wandb_source import source_of
from tests.wandb_server import WandbServer


def told(source: Source, with_files: bool = False) -> dict[str, dict[str, Any]]:
    found = overview(source, Selection(), with_files)
    assert found.unread == []
    return {project.project: project.as_json() for project in found.projects}


STARTED_MS, SECOND_MS = 1_700_000_000_000, 1_000


def test_of_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for each project, with runs, rows, keys and states; --json has the same."""
    make_folder(tmp_path / "wandb", "alpha")
    make_folder(tmp_path / "wandb", "beta")
    media = next((tmp_path / "wandb").glob("*-alpha0")) / "files" / "media"
    media.mkdir(parents=True)
    (media / "x.txt").write_text("12345")
    code, out, err = main_in_process(capsys, monkeypatch, "summary", tmp_path / "wandb")
    assert (code, err) == (0, "")
    line = next(line for line in out.splitlines() if "alpha" in line)
    assert line.replace("│", " ").split()[:4] == ["alpha", str(RUNS), str(RUNS * ROWS), "1"]
    assert out.splitlines()[-1] == f"2 projects, {2 * RUNS} runs, {2 * RUNS * ROWS} rows"
    code, out, _ = main_in_process(capsys, monkeypatch, "summary", tmp_path / "wandb", "--json")
    projects = {one["project"]: one for one in json.loads(out)["projects"]}
    assert set(projects) == {"alpha", "beta"}
    assert projects["alpha"]["states"] == {"finished": RUNS}
    assert (projects["alpha"]["runs"], projects["alpha"]["rows"]) == (RUNS, RUNS * ROWS)
    assert (projects["alpha"]["files"], projects["alpha"]["bytes"]) == (1, 5)
    assert (projects["beta"]["files"], projects["beta"]["bytes"]) == (0, 0)


def test_of_an_archive_and_of_an_mlflow_store(tmp_path: Path, fresh_store: str) -> None:
    """Both tell runs and keys of what was carried there; MLflow has no rows."""
    make_folder(tmp_path / "wandb", "p")
    source = open_source(str(tmp_path / "wandb"))
    archive = f"archive:{tmp_path / 'kept'}"
    for to in (archive, fresh_store):
        done = list(backfill(source, open_target(to, TargetOptions()), Selection()))
        assert {outcome.action for outcome in done} == {"migrated"}
    kept = told(open_source(archive))["p"]
    assert (kept["runs"], kept["rows"], kept["keys"]) == (RUNS, RUNS * ROWS, 1)
    stored = told(open_source(fresh_store))["p"]
    assert (stored["runs"], stored["rows"], stored["keys"]) == (RUNS, None, 1)
    assert stored["states"] == {"finished": RUNS}


def test_of_a_server_reads_the_list_of_runs_alone(tmp_path: Path) -> None:
    """Files cost a request for each run, and are counted if that is asked for."""
    with WandbServer(tmp_path / "server") as server:
        for run_id, state in (("a", "finished"), ("b", "crashed")):
            rows = [{"loss": number / 10} for number in range(7)]
            server.add_run("told", run_id, rows=rows, files={"x": b"123"}, state=state)
        source = source_of(server, "told")
        (found,) = told(source).values()
        assert (found["runs"], found["rows"], found["files"]) == (2, 14, None)
        assert found["states"] == {"finished": 1, "crashed": 1}
        assert set(source.calls) == {"Runs"}
        (found,) = told(source, with_files=True).values()
        assert (found["files"], found["bytes"]) == (2, 6)


def test_a_run_that_cannot_be_read_is_named() -> None:
    """It counts as a run all the same; a source that counts nothing has no figures."""
    found = overview(MemorySource({"r1": [], "r2": []}), Selection())
    (project,) = found.projects
    assert (project.runs, project.rows, project.keys, project.files) == (2, None, None, None)


def test_what_is_damaged_is_told_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error, one line for each."""
    make_folder(tmp_path / "wandb", "p")
    log = next((tmp_path / "wandb").glob("*-p0")) / "run-p0.wandb"
    log.write_bytes(log.read_bytes()[:20])
    code, out, err = main_in_process(capsys, monkeypatch, "summary", tmp_path / "wandb")
    assert code == 1
    assert err.startswith("not read: p0: ")
    assert out.splitlines()[-1].endswith(", 1 not read")
