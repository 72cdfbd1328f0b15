"""The commands against the loopback W&B server: plan, archive, w2m, follow, reports, bad names."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.cli import main
from mlflow_wandb_plugin.cli.progress import ProgressBar
from mlflow_wandb_plugin.w2m.command import main as w2m
from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import started, wait_until
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        yield running
        assert not running.executor.unknown, "fields that the server does not know"


@pytest.fixture
def command(
    server: WandbServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """A command in this process, with a key for the server: exit code, stdout, stderr."""
    monkeypatch.setenv("WANDB_API_KEY", server.api_key)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)

    def call(*arguments: str | Path, entry: Callable[[], Any] = main) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mlflow-wandb", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            entry()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return int(code or 0), out, err

    return call


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"_step": i, "_timestamp": 1.7e9 + i, "loss": 1 / (i + 1), "t": f"row {i}"}
        for i in range(count)
    ]


def filled(server: WandbServer, project: str) -> None:
    """Three finished runs, the last with a file."""
    for i in range(3):
        server.add_run(
            project, f"r{i}", display_name=f"name {i}", rows=rows(20 + i), config={"lr": i},
            files={"saved.bin": b"\0" * 5000} if i == 2 else {}, tags=["x"],
        )  # fmt: skip
    server.parquet(server.run(f"{project}/r1"), 10)


def everything(uri: str, folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for run_id, state in read_runs(uri, folder).items():
        found[run_id] = state.comparable()
    return found


def test_a_plan_tells_all_and_writes_nothing(
    server: WandbServer, fresh_store: str, command: Command
) -> None:
    """Runs, points, bytes, API calls and the verdict of each run; MLflow and W&B are as before."""
    filled(server, "planned")
    code, _, _ = command("backfill", "wandb://tester/planned", "--to", fresh_store, "--run", "r0")
    assert code == 0
    before = len(server.requests)
    code, out, _ = command(
        "backfill", "wandb://tester/planned", "--to", fresh_store, "--plan", "--json"
    )
    assert code == 0
    document = json.loads(out)
    assert document["totals"]["to_migrate"] == 2
    verdicts = {run["run_id"]: (run["verdict"], run["action"]) for run in document["runs"]}
    assert verdicts == {
        "r0": ("existing", "skip"), "r1": ("new", "migrate"), "r2": ("new", "migrate")
    }  # fmt: skip
    (last,) = (run for run in document["runs"] if run["run_id"] == "r2")
    assert (last["points"], last["bytes"]) == (22, 5000)
    assert last["requests"] > 3
    assert set(read_runs(fresh_store)) == {"r0"}
    asked = {request.operation for request in server.requests[before:]}
    assert not any("History" in (name or "") for name in asked)
    _, table, _ = command("backfill", "wandb://tester/planned", "--to", fresh_store, "--plan")
    assert "3 runs" in table


def test_by_way_of_an_archive_all_arrives_without_wandb(
    server: WandbServer, empty_store: Path, tmp_path: Path, command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """W&B to archive to MLflow is W&B to MLflow, and the second leg asks W&B for nothing."""
    filled(server, "kept")
    direct, later = (copy_store(empty_store, tmp_path / f"{name}.db") for name in "ab")
    for name, uri in (("one", direct), ("two", "archive:" + str(tmp_path / "kept"))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        code, out, err = command("backfill", "wandb://tester/kept", "--to", uri)
        assert code == 0, out + err
        assert "3 migrated" in out
    before = len(server.requests)
    monkeypatch.delenv("WANDB_API_KEY")
    code, out, err = command("backfill", f"archive:{tmp_path / 'kept'}", "--to", later)
    assert code == 0, out + err
    assert len(server.requests) == before
    assert everything(later, tmp_path / "l") == everything(direct, tmp_path / "d")


def test_w2m_migrates_a_project_with_the_seed_tools_flags(
    server: WandbServer, fresh_store: str, tmp_path: Path, command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Chosen runs, without an excluded metric, into a named experiment; then by a dry run."""
    filled(server, "old-tool")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh_store)
    flags = ("--wandb_org_name=tester", "--wandb_project_name=old-tool",
             "--mlflow_experiment_name=moved")  # fmt: skip
    code, out, err = command(
        *flags, "--wandb_run_names=name 0,name 1", "--exclude_metrics=acc,t",
        f"--log_dir={tmp_path / 'logs'}", "--verbose=True", entry=w2m,
    )  # fmt: skip
    assert code == 0, out + err
    states = read_runs(fresh_store)
    assert set(states) == {"r0", "r1"}
    assert states["r1"].points("loss") == [(i, 1 / (i + 1)) for i in range(21)]
    assert any((tmp_path / "logs").iterdir())
    kept = f"--dry_run_save_dir={tmp_path / 'dry'}"
    code, out, err = command(*flags, "--dry_run=True", kept, entry=w2m)
    assert code == 0, out + err
    assert set(read_runs(fresh_store)) == {"r0", "r1"}
    code, out, err = command(*flags, "--resume_from_dry_run=True", kept, entry=w2m)
    assert code == 0, out + err
    assert set(read_runs(fresh_store)) == {"r0", "r1", "r2"}


def test_follow_mirrors_a_run_that_nobody_can_change(
    server: WandbServer, empty_store: Path, tmp_path: Path
) -> None:
    """Rows appear in MLflow as they come, the run ends there as in W&B, Ctrl-C ends the mirror."""
    run = server.add_run("live", "r1", rows=rows(10), state="running")
    uri = copy_store(empty_store, tmp_path / "follow.db")
    env = isolated(tmp_path, WANDB_API_KEY=server.api_key)
    report = tmp_path / "report.json"
    arguments = ["backfill", f"wandb+{server.url}/tester/live", "--to", uri, "--follow",
                 "--every", "0.2", "--report", str(report)]  # fmt: skip
    with started(
        [sys.executable, "-m", "mlflow_wandb_plugin.cli", *arguments], env, tmp_path
    ) as process:
        wait_until(lambda: _points(uri) == 10, 240)
        server.grow(run, rows(25)[10:])
        wait_until(lambda: _points(uri) == 25, 240)
        assert read_runs(uri)["r1"].status == "RUNNING"
        run.state = "finished"
        wait_until(lambda: read_runs(uri)["r1"].status == "FINISHED", 240)
        server.add_run("live", "r2", rows=rows(5))
        wait_until(lambda: "r2" in read_runs(uri), 240)
        wait_until(lambda: '"skipped": 2' in report.read_text(), 240)
        # Where the tests run in a shell's background, their children ignore Ctrl-C.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert "Traceback" not in err
    assert read_runs(uri)["r1"].points("loss") == [(i, 1 / (i + 1)) for i in range(25)]


def _points(uri: str) -> int:
    found: dict[str, RunState] = read_runs(uri)
    return len(found["r1"].metrics.get("loss", ())) if "r1" in found else 0


def test_reports_are_kept_as_page_json_and_text(
    server: WandbServer, fresh_store: str, tmp_path: Path, command: Command
) -> None:
    """A name that is HTML is text on the page, which has the verdicts and a curve of each run."""
    name = "<script>alert(1)</script>"
    server.add_run("told", "r1", display_name=name, rows=rows(30))
    source = ("backfill", "wandb://tester/told", "--to", fresh_store)
    for kind in ("html", "json", "txt"):
        code, out, err = command(*source, "--report", tmp_path / "in" / f"report.{kind}")
        assert code == 0, out + err
    page = (tmp_path / "in" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "migrated" in page
    (text,) = re.findall(r'id="curves">(.*?)</script>', page)
    (curve,) = [one for one in json.loads(text)["0"] if one["key"] == "loss"]
    assert (curve["together"], curve["target"], curve["source"]["n"]) == (True, "same", 30)
    document = json.loads((tmp_path / "in" / "report.json").read_text())
    assert (document["runs"][0]["name"], document["runs"][0]["action"]) == (name, "skipped")
    assert "1 skipped as existing" in (tmp_path / "in" / "report.txt").read_text()


HOSTILE = ["../../etc/x", "/abs/path", "a\0b", "x" * 4096, "Case.txt", "case.txt", "...", "a/../b",
           "nul\n.txt", "deep/" * 30 + "f"]  # fmt: skip


def test_hostile_names_stay_inside_their_folder(
    server: WandbServer, fresh_store: str, tmp_path: Path, command: Command
) -> None:
    """Files, metrics, runs and a project of such names: all contents arrive, none elsewhere."""
    files = {name: f"content of {number}".encode() for number, name in enumerate(HOSTILE)}
    data = {name: float(number) for number, name in enumerate(HOSTILE)}
    rows_ = [{"_step": 0, "_timestamp": 1.7e9, **data}]
    server.add_run("odd", "r1", display_name="../../up", files=files, rows=rows_)
    server.add_run("odd", "..", display_name="a\0b", files=files, rows=rows_)
    for target in (fresh_store, f"archive:{tmp_path / 'kept'}"):
        code, out, err = command("backfill", "wandb://tester/odd", "--to", target, "--json")
        assert code == 0, out + err
        assert {run["action"] for run in json.loads(out)["runs"]} == {"migrated"}
    states = read_runs(fresh_store, tmp_path / "read")
    for state in states.values():
        wanted = sorted(files.values())
        folder = tmp_path / "read" / state.run_id / "wandb" / "files"
        found = sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        assert found == wanted
        values = sorted(points[0][0] for points in state.metrics.values())
        assert values == sorted(data.values())
    inside = {tmp_path / name for name in ("kept", "read", "fresh")}
    assert set(tmp_path.iterdir()) <= inside
    assert not (tmp_path.parent / "etc").exists()
    assert not Path("/abs").exists()
    contents = [p.read_bytes() for p in (tmp_path / "kept").rglob("*") if p.is_file()]
    for content in files.values():
        assert contents.count(content) == 2


def test_the_bars_know_how_much_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and points have totals, so that there is an ETA."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with ProgressBar() as bar:
        bar.expect_runs(3)
        bar.points_expected(100)
        bar.points_expected(50)
        bar.points(60)
        runs, points = bar._progress.tasks
    assert (runs.total, points.total, points.completed) == (3, 150, 60)
