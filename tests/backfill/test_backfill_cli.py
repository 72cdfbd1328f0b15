"""``mlflow-wandb backfill`` on real W&B folders: exit codes, reports, damage, repetition."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin import backfill
from mlflow_wandb_plugin.backfill.carrier import Carrier
from mlflow_wandb_plugin.backfill.outcome import Outcome
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_plugin.sources.wandb_local import run_log
from mlflow_wandb_plugin.wandb_log.framing import LogReader
from tests.support.commands import main_in_process, mlflow_wandb
from tests.support.environment import isolated
from tests.support.mlflow_features import without_migrations
from tests.support.mlflow_state import read_runs
from tests.support.processes import free_port, run_script, started, wait_until

PLAIN = """
import wandb
for number in range(3):
    with wandb.init(project="history", id=f"old{number}", name=f"name {number}") as run:
        for i in range(200):
            run.log({"m": i + 1000 * number, "text": f"row {i}"})
with wandb.init(project="history", id="crashed") as run:
    run.log({"m": 1})
    run.finish(exit_code=1)
"""
ROWS = 200

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wandb folder with three runs that finished and one that failed, made by wandb alone."""
    folder = tmp_path_factory.mktemp("history")
    run_script(PLAIN, isolated(folder), folder / "work")
    return folder / "work" / "wandb"


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(recorded, tmp_path / "wandb", symlinks=True))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code, out, err = main_in_process(capsys, monkeypatch, *arguments)
        return code, out, without_migrations(err)

    return call


def log_of(folder: Path, run_id: str) -> Path:
    (log,) = folder.glob(f"*-{run_id}/*.wandb")
    return log


def end_of_row(log: Path, step: int) -> int:
    """The byte behind the record of a step's history row; where it lies differs from run to run."""
    for frame in LogReader(log).read():
        record = Record.FromString(frame.payload)
        if record.HasField("history") and record.history.step.num == step:
            return frame.end
    raise AssertionError(f"no row for step {step}")


def test_a_folder_arrives_and_a_second_time_is_skipped(
    folder: Path, fresh_store: str, command: Command, tmp_path: Path
) -> None:
    """Exit code 0, a table with a row a run, and nothing written twice."""
    code, out, err = command("backfill", folder, "--to", fresh_store)
    assert (code, err) == (0, "")
    assert "4 migrated, 0 skipped" in out
    first = read_runs(fresh_store, tmp_path / "first")
    assert set(first) == {"old0", "old1", "old2", "crashed"}
    for number in range(3):
        points = first[f"old{number}"].points("m")
        assert points == [(i, 1000.0 * number + i) for i in range(ROWS)]
        assert first[f"old{number}"].tags["mlflow.wandb.origin"] == "backfill"
    assert (first["crashed"].status, first["old0"].status) == ("FAILED", "FINISHED")

    code, out, err = command("backfill", folder, "--to", fresh_store)
    assert (code, err) == (0, "")
    assert "0 migrated, 4 skipped as existing" in out
    assert read_runs(fresh_store, tmp_path / "second") == first


def test_json_and_the_choice_of_runs(folder: Path, fresh_store: str, command: Command) -> None:
    """``--json`` is JSON and nothing else; ``--run`` takes ids and names, repeatedly."""
    code, out, err = command(
        "backfill", folder, "--to", fresh_store, "--json", "--run", "old1", "--run", "name 2"
    )
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["counts"] == {"migrated": 2, "repaired": 0, "skipped": 0, "failed": 0}
    runs = {run["run_id"]: run for run in report["runs"]}
    assert set(runs) == {"old1", "old2"} == set(read_runs(fresh_store))
    assert runs["old1"]["points"] >= ROWS
    assert runs["old1"]["mlflow_run_id"] == read_runs(fresh_store)["old1"].run_id


def test_json_into_a_tracking_server_is_json_alone(
    folder: Path, server: str, command: Command
) -> None:
    """MLflow's client prints where each run can be viewed: not among the report."""
    code, out, err = command(
        "backfill", folder, "--to", server, "--json", "--experiment", "json alone",
        "--write-path", "api",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["counts"]["migrated"] == 4
    assert "View run" in err


def test_one_run_folder_and_one_file(folder: Path, fresh_store: str, command: Command) -> None:
    """SOURCE may be a run's folder, its file, or the folder above wandb's."""
    assert command("backfill", log_of(folder, "old0").parent, "--to", fresh_store)[0] == 0
    assert set(read_runs(fresh_store)) == {"old0"}
    assert command("backfill", log_of(folder, "old1"), "--to", fresh_store)[0] == 0
    assert set(read_runs(fresh_store)) == {"old0", "old1"}
    code, out, _ = command("backfill", folder.parent, "--to", fresh_store)
    assert code == 0
    assert "2 migrated, 2 skipped as existing" in out


def test_usage_errors_are_one_line_and_exit_code_2(
    tmp_path: Path, fresh_store: str, command: Command
) -> None:
    """An empty folder, a path that is not there, a URI that is none."""
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, words in ((empty, "no W&B runs in"), (tmp_path / "absent", "is not a source")):
        code, out, err = command("backfill", source, "--to", fresh_store)
        assert code == 2, (out, err)
        assert words in err
        assert str(source) in err
        assert len(err.splitlines()) == 1
    assert read_runs(fresh_store) == {}


@pytest.mark.parametrize("given", ['{"group": "a"}', "{}", ""])
def test_a_filter_is_for_servers_only(
    folder: Path, fresh_store: str, command: Command, tmp_path: Path, given: str
) -> None:
    """Ignoring it would migrate runs that nobody asked for; an empty one is refused, too."""
    arguments = (folder, "--to", fresh_store, "--filter", given)
    table = ("export", folder, "--to", tmp_path / "runs.csv", "--filter", given)
    for line in (("backfill", *arguments), ("backfill", *arguments, "--plan"),
                 ("verify", *arguments), table):  # fmt: skip
        code, _, err = command(*line)
        assert code == 2
        assert "--filter" in err
        assert len(err.splitlines()) == 1
    assert read_runs(fresh_store) == {}


def test_a_plan_lists_what_cannot_be_read(folder: Path, fresh_store: str, command: Command) -> None:
    """The broken run is refused with its reason, beside the others."""
    log_of(folder, "old1").write_bytes(b"this is no log")
    code, out, _ = command("backfill", folder, "--to", fresh_store, "--plan", "--json")
    assert code == 0
    runs = {run["run_id"]: run for run in json.loads(out)["runs"]}
    assert runs["old1"]["action"] == "refuse"
    assert runs["old1"]["reason"]
    assert runs["old0"]["action"] == "migrate"


def test_an_option_that_does_not_exist_is_named(folder: Path, fresh_store: str) -> None:
    """The function's options are checked as the command's are."""
    with pytest.raises(UsageError, match="unknown"):
        backfill(str(folder), fresh_store, unknown=1)


def test_a_target_that_mlflow_does_not_know(folder: Path, command: Command) -> None:
    """One line that names the URI, exit code 2."""
    code, _, err = command("backfill", folder, "--to", "nonsense://somewhere")
    assert code == 2
    assert "nonsense://somewhere" in err
    assert len(err.splitlines()) == 1


def test_a_truncated_log_is_read_up_to_its_end(
    folder: Path, fresh_store: str, command: Command
) -> None:
    """Every whole record arrives, the run counts as killed, the byte offset is reported."""
    log = log_of(folder, "old0")
    whole = log.read_bytes()
    log.write_bytes(whole[: end_of_row(log, 149) + 20])
    code, out, _ = command("backfill", folder, "--to", fresh_store, "--json", "--run", "old0")
    assert code == 0
    (run,) = json.loads(out)["runs"]
    assert run["action"] == "migrated"
    assert any("at byte" in unreadable for unreadable in run["damage"])
    state = read_runs(fresh_store)["old0"]
    points = state.points("m")
    assert points == [(i, float(i)) for i in range(len(points))]
    assert len(points) == 150
    assert state.status == "KILLED"


def test_a_corrupt_log_loses_no_sound_record(
    folder: Path, fresh_store: str, command: Command
) -> None:
    """Bytes overwritten in the middle: what is before and behind them arrives, and is reported."""
    log = log_of(folder, "old1")
    data = bytearray(log.read_bytes())
    end = end_of_row(log, 100)
    data[end - 64 : end] = b"\xff" * 64
    log.write_bytes(bytes(data))
    code, out, _ = command("backfill", folder, "--to", fresh_store, "--json", "--run", "old1")
    assert code == 0
    (run,) = json.loads(out)["runs"]
    assert any("at byte" in unreadable for unreadable in run["damage"])
    state = read_runs(fresh_store)["old1"]
    assert 64 <= json.loads(state.tags["mlflow.wandb.losses"])["damaged_bytes"] < 1000
    points = dict(state.points("m"))
    assert all(value == 1000.0 + step for step, value in points.items())
    assert ROWS / 4 <= len(points) < ROWS
    assert points.keys() >= set(range(100))
    assert 100 not in points


def test_a_broken_run_among_good_ones(folder: Path, fresh_store: str, command: Command) -> None:
    """The others arrive; the broken one is a failure with its reason; an empty one is none."""
    log_of(folder, "old1").write_bytes(b"this is no log")
    log = log_of(folder, "old2")
    log.write_bytes(log.read_bytes()[:7])
    code, out, err = command("backfill", folder, "--to", fresh_store, "--json")
    assert {"old0", "crashed"} == set(read_runs(fresh_store))
    assert (code, err) == (1, "")
    rows = json.loads(out)["runs"]
    runs = {row["run_id"].split("-")[-1]: (row["action"], row["reason"]) for row in rows}
    assert runs["old1"][0] == "failed"
    assert "is not a W&B transaction log" in runs["old1"][1]
    assert runs["old2"][0] == "skipped"
    assert "nothing was logged" in runs["old2"][1]
    assert {runs["old0"][0], runs["crashed"][0]} == {"migrated"}


def test_an_interrupted_backfill_is_repaired(
    folder: Path, fresh_store: str, command: Command, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Stopped before the end: the next one fills it, and it equals an undisturbed one."""
    from mlflow_wandb_plugin.errors import TargetUnavailableError
    from mlflow_wandb_plugin.targets.mlflow.files.run_files import RunFiles

    def unavailable(self: RunFiles, info: object) -> None:
        raise TargetUnavailableError("MLflow: gone in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(RunFiles, "finish", unavailable)
        code, out, _ = command("backfill", folder, "--to", fresh_store, "--run", "old0")
        assert code == 1
        assert "gone in the middle" in " ".join(out.split())
    before = read_runs(fresh_store)["old0"]
    assert (before.status, before.tags["mlflow.wandb.state"]) == ("RUNNING", "live")
    code, out, _ = command("backfill", folder, "--to", fresh_store, "--run", "old0", "--json")
    assert code == 0
    (run,) = json.loads(out)["runs"]
    assert (run["verdict"], run["action"]) == ("partial", "repaired")
    after = read_runs(fresh_store, tmp_path / "after")["old0"]
    assert after.run_id == before.run_id
    other = tmp_path / "other.db"
    (outcome,) = backfill(str(log_of(folder, "old0")), f"sqlite:///{other}")
    assert outcome.action == "migrated"
    undisturbed = read_runs(f"sqlite:///{other}", tmp_path / "undisturbed")["old0"]
    left, right = after.comparable(), undisturbed.comparable()
    for part in left:
        assert left[part] == right[part], part


@pytest.mark.slow
def test_a_run_that_is_being_written_is_topped_up(
    env: dict[str, str], tmp_path: Path, fresh_store: str, command: Command
) -> None:
    """RUNNING in MLflow while it runs; the rest comes with the next backfill."""
    go = tmp_path / "go"
    script = tmp_path / "work" / "train.py"
    script.write_text(f"""
import os, time, wandb
run = wandb.init(project="p", id="growing")
for i in range(5000):
    run.log({{"m": i}})
print("half", flush=True)
while not os.path.exists({str(go)!r}):
    time.sleep(0.05)
for i in range(5000, 6000):
    run.log({{"m": i}})
run.finish()
""")
    source = tmp_path / "work" / "wandb"
    with started([sys.executable, str(script)], env, tmp_path / "work") as process:
        wait_until(lambda: list(source.glob("*-growing/*.wandb")), 240, "the log")
        log = log_of(source, "growing")
        wait_until(lambda: log.stat().st_size > 65536, 240, "flushed blocks")
        code, out, _ = command("backfill", source, "--to", fresh_store, "--json")
        assert code == 0
        (row,) = json.loads(out)["runs"]
        assert (row["action"], row["state"]) == ("migrated", "running")
        half = read_runs(fresh_store)["growing"]
        assert half.status == "RUNNING"
        assert half.tags["mlflow.wandb.state"] == "live"
        count = len(half.points("m"))
        assert half.points("m") == [(i, float(i)) for i in range(count)]
        assert 0 < count <= 5000
        go.touch()
        process.communicate(timeout=60)
    code, out, _ = command("backfill", source, "--to", fresh_store, "--json")
    (row,) = json.loads(out)["runs"]
    assert (code, row["verdict"], row["action"]) == (0, "partial", "repaired")
    whole = read_runs(fresh_store)["growing"]
    assert whole.run_id == half.run_id
    assert whole.points("m") == [(i, float(i)) for i in range(6000)]
    assert (whole.status, whole.tags["mlflow.wandb.state"]) == ("FINISHED", "complete")


def test_an_mlflow_that_cannot_be_reached_is_one_clear_line(
    folder: Path, env: dict[str, str], tmp_path: Path
) -> None:
    """As a user calls it: soon, without a traceback, exit code 2."""
    port = free_port()
    began = time.monotonic()
    done = mlflow_wandb(
        "backfill", folder, "--to", f"http://127.0.0.1:{port}", "--run", "old0",
        env=env, cwd=tmp_path, timeout=240,
    )  # fmt: skip
    seconds = time.monotonic() - began
    assert done.returncode == 2
    assert f"MLflow at http://127.0.0.1:{port} cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert seconds < 60, f"{seconds:.0f} s"


def test_no_progress_bar_where_there_is_no_terminal(
    folder: Path, env: dict[str, str], tmp_path: Path
) -> None:
    """The installed command, its output in a pipe: no control characters, nothing on stderr."""
    done = mlflow_wandb("backfill", folder, "--run", "crashed", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 migrated" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "points/s" not in done.stderr
    assert set(read_runs(env["MLFLOW_TRACKING_URI"])) == {"crashed"}


def test_a_plan_creates_nothing(folder: Path, tmp_path: Path, command: Command) -> None:
    """A database, an archive or a folder that a backfill would create is not there afterwards."""
    for target in ("sqlite:///{}/new.db", "archive:{}/archive", "{}/mlruns"):
        to = target.format(tmp_path / "none")
        code, out, _ = command("backfill", folder, "--to", to, "--plan", "--json")
        assert code == 0
        assert {run["verdict"] for run in json.loads(out)["runs"]} == {"new"}
    assert not (tmp_path / "none").exists()


def test_verify_creates_no_database(folder: Path, tmp_path: Path, command: Command) -> None:
    """A mistyped target is told as absent runs, and is not created."""
    code, out, _ = command("verify", folder, "--to", f"sqlite:///{tmp_path}/typo.db")
    assert code == 1
    assert "4 absent" in out
    assert not (tmp_path / "typo.db").exists()


def test_a_plan_can_be_kept(
    folder: Path, fresh_store: str, tmp_path: Path, command: Command
) -> None:
    """`--plan --report` writes the plan in each format."""
    for suffix, words in (
        (".json", '"to_migrate": 4'),
        (".txt", "4 to migrate"),
        (".html", "<td>new"),
    ):
        report = tmp_path / "new" / f"plan{suffix}"
        assert (
            command("backfill", folder, "--to", fresh_store, "--plan", "--report", report)[0] == 0
        )
        assert words in report.read_text()
    assert read_runs(fresh_store) == {}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--run", "nobody"], "no run of {folder} is selected: check --run, --state and the like"),
        (["--run", "a("], "--run 'a(' is not a regular expression"),
        (["--experiment", "{team}/{project}"], "there is no {team}; the placeholders are {entity}"),
        (
            ["--report", "report.pdf"],
            "--report report.pdf: the name must end in .html, .json, .jsonl, .txt",
        ),
        (["--report", "{file}/r.html"], "r.html cannot be written: "),
        (["--log-dir", "{file}/logs"], "logs cannot be written: "),
        (["--to", "wandb+http://127.0.0.1:1/e/p/run"], "names no place for runs: pass wandb://"),
        (["--to", "wandb+http://127.0.0.1:1/e/p"], "set MLFLOW_WANDB_TARGET_API_KEY, or run"),
        (["--to", "offline:"], "offline: names no folder: write offline:DIR"),
        (["--to", "wandb+sqlite:///x.db"], "leads to W&B, where the runs come from"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(
    folder: Path, tmp_path: Path, command: Command, arguments: list[str], line: str
) -> None:
    """Exit code 2, one line that says what to do, and no database."""
    (tmp_path / "file").write_text("")
    names = {"folder": folder, "file": tmp_path / "file"}
    given = [
        argument if "{team}" in argument else argument.format(**names) for argument in arguments
    ]
    to = [] if "--to" in arguments else ["--to", f"sqlite:///{tmp_path}/none.db"]
    code, out, err = command("backfill", folder, *to, *given)
    assert (code, out) == (2, "")
    assert line.replace("{folder}", str(folder)) in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "none.db").exists()


def test_a_mistyped_source_is_told_before_the_target_is_created(
    tmp_path: Path, command: Command
) -> None:
    """The source is looked at first."""
    code, _, err = command("backfill", tmp_path / "typo", "--to", f"sqlite:///{tmp_path}/new.db")
    assert (code, "is not a source" in err) == (2, True)
    assert not (tmp_path / "new.db").exists()


def test_rows_come_in_the_order_of_the_plan_with_their_place(
    folder: Path, fresh_store: str, command: Command
) -> None:
    """The report has each run's experiment and MLflow run id, in the order of the plan."""
    _, planned, _ = command("backfill", folder, "--to", fresh_store, "--plan", "--json")
    _, out, _ = command("backfill", folder, "--to", fresh_store, "--json", "--workers", "4")
    rows = json.loads(out)["runs"]
    assert [row["run_id"] for row in rows] == [row["run_id"] for row in json.loads(planned)["runs"]]
    written = read_runs(fresh_store)
    for row in rows:
        assert (row["experiment"], row["link"]) == ("history", "")
        assert row["mlflow_run_id"] == written[row["run_id"]].run_id
    _, shown, _ = command("backfill", folder, "--to", fresh_store)
    assert all(run.run_id[:8] in shown for run in written.values())


def test_ctrl_c_says_how_far_it_came(
    folder: Path, fresh_store: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, exit code 130; the same command goes on."""
    carry = Carrier.carry
    carried: list[Outcome] = []

    def interrupted(self: Carrier, run: RunInfo) -> Outcome:
        if carried:
            raise KeyboardInterrupt
        carried.append(carry(self, run))
        return carried[0]

    with monkeypatch.context() as patch:
        patch.setattr(Carrier, "carry", interrupted)
        code, out, err = command("backfill", folder, "--to", fresh_store, "--workers", "1")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "1 of 4 runs done; run the same command to go on"
    code, out, _ = command("backfill", folder, "--to", fresh_store)
    assert code == 0
    assert "3 migrated, 1 skipped as existing" in out


def test_a_running_run_with_nothing_new_is_skipped(
    folder: Path, fresh_store: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is repaired only if there is something to add."""
    log = log_of(folder, "old0")
    content, more_rows = log.read_bytes(), end_of_row(log, 149)
    log.write_bytes(content[: end_of_row(log, 99)])
    monkeypatch.setattr(run_log, "is_open_elsewhere", lambda *_, **__: True)
    only = ("backfill", folder, "--to", fresh_store, "--run", "old0", "--json")
    (first,) = json.loads(command(*only)[1])["runs"]
    assert (first["state"], first["action"]) == ("running", "migrated")
    assert len(read_runs(fresh_store)["old0"].metrics["m"]) == 100
    (again,) = json.loads(command(*only)[1])["runs"]
    assert (again["action"], again["reason"]) == ("skipped", "still running, and nothing new")
    log.write_bytes(content[:more_rows])
    (more,) = json.loads(command(*only)[1])["runs"]
    assert more["action"] == "repaired"
    assert len(read_runs(fresh_store)["old0"].metrics["m"]) == 150
