"""``mlflow-wandb`` as a user calls it: status, sync, plugins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_wandb_plugin.cli import main
from tests.support.commands import journals, mlflow_wandb
from tests.support.mlflow_state import read_runs
from tests.support.processes import free_port, run_script

SCRIPT = """
import mlflow_wandb_plugin.wandb as wandb
run = wandb.init(project="p", id="ID")
for i in range(5):
    run.log({"m": i})
run.finish()
"""


def test_sync_and_status_with_nothing_to_do(env: dict[str, str], tmp_path: Path) -> None:
    """They say so, in words and in JSON, and exit with 0."""
    work = tmp_path / "work"
    done = mlflow_wandb("sync", env=env, cwd=work)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing to deliver\n", "")
    for command in ("sync", "status"):
        done = mlflow_wandb(command, "--json", env=env, cwd=work)
        assert (done.returncode, json.loads(done.stdout)) == (0, [])
    assert mlflow_wandb("sync", tmp_path / "absent", env=env, cwd=work).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backfill",), "Missing argument 'SOURCE...'"),
        (("backfill", ".", "--workers", "0"), "'--workers': 0 is not in the range"),
        (("unknown",), "No such command 'unknown'"),
        (("verify", ".", "--to", "sqlite:"), "cannot use the tracking URI sqlite:"),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says what is wrong, and the exit code is 2."""
    (tmp_path / "run-x.wandb").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mlflow-wandb", *arguments])
    with pytest.raises(SystemExit) as exited:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert exited.value.code == 2
    assert line.startswith("mlflow-wandb: ")
    assert words in line


def test_ctrl_c_before_the_first_run_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 130, as of a backfill that is interrupted later."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow_wandb_plugin.replicator.sync.find_journals", interrupted)
    monkeypatch.setattr("sys.argv", ["mlflow-wandb", "sync"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 130
    assert capsys.readouterr().err.strip() == "mlflow-wandb: interrupted"


INTERRUPTED_IMPORT = """
import os, runpy, signal, sys

# A shell starts what it runs in the background with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["WHILE"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["mlflow-wandb", "plugins"]
if os.environ["AS"] == "module":
    runpy.run_module("mlflow_wandb_plugin.cli", run_name="__main__")
else:
    from mlflow_wandb_plugin.cli import main
    main()
"""


@pytest.mark.parametrize("entry", ["module", "console script"])
@pytest.mark.parametrize("module", ["click", "mlflow_wandb_plugin.cli.plugins"])
def test_ctrl_c_during_the_imports_is_no_traceback(
    env: dict[str, str], tmp_path: Path, entry: str, module: str
) -> None:
    """Impatient users press it within the first second."""
    variables = {**env, "WHILE": module, "AS": entry}
    command = [sys.executable, "-c", INTERRUPTED_IMPORT]
    done = subprocess.run(
        command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (130, "")
    # Within a command, click ends the line that has the terminal's ^C.
    line = "" if module == "click" else "\n"
    assert done.stderr == f"{line}mlflow-wandb: interrupted\n"


@pytest.mark.slow
def test_status_and_sync_of_a_run_whose_mlflow_was_away(
    env: dict[str, str], tmp_path: Path
) -> None:
    """The run is listed with its trouble; sync fails with 1 while MLflow is away, then delivers."""
    work, store = tmp_path / "work", env["MLFLOW_TRACKING_URI"]
    away = f"http://127.0.0.1:{free_port()}"
    done = run_script(
        SCRIPT.replace("ID", "away"),
        {**env, "MLFLOW_TRACKING_URI": away, "MLFLOW_WANDB_LINGER": "0"},
        work,
    )
    assert f"MLflow at {away} cannot be reached" in done.stderr
    assert "mlflow-wandb sync" in done.stderr
    (row,) = json.loads(mlflow_wandb("status", "--json", env=env, cwd=work).stdout)
    assert (row["trainer"], row["replica"], row["MLflow run"]) == ("ended", "waiting", "")
    assert away in row["trouble"]
    assert row["not yet shipped"].endswith("bytes")
    assert (row["id"], row["project"]) == ("away", "p")
    lines = mlflow_wandb("status", env=env, cwd=work).stdout.splitlines()
    assert lines[0].split() == ["run", "id", "project", "age", "replica"]
    assert [word in lines[1].split() for word in ("away", "p", "waiting")] == [True] * 3
    assert any(line.startswith("  trouble: MLflow at") for line in lines[2:])
    assert max(map(len, lines)) <= 80

    done = mlflow_wandb("sync", "--to", store, env=env, cwd=work)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "-away: complete" in done.stdout
    assert not journals(env)
    (run,) = read_runs(store).values()
    assert (run.status, run.points("m")) == ("FINISHED", [(i, float(i)) for i in range(5)])
    (row,) = json.loads(mlflow_wandb("status", "--json", env=env, cwd=work).stdout)
    assert (row["replica"], row["MLflow run"], row["not yet shipped"]) == (
        "complete", run.run_id, "",
    )  # fmt: skip


def test_plugins_of_others_and_one_that_is_broken(env: dict[str, str], tmp_path: Path) -> None:
    """A distribution found by its entry point is listed and used; a broken one is left out."""
    site = tmp_path / "site"
    for name in ("thirdparty", "broken", "absentee"):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[mlflow_wandb_plugin]\n{name} = {name}_module\n")
    (site / "thirdparty_module.py").write_text("""
from mlflow_wandb_plugin.hookspecs import hookimpl
from mlflow_wandb_plugin.core.model import RunInfo

from mlflow_wandb_plugin.core.protocols import Source

class Tape(Source):
    def runs(self, selection):
        yield RunInfo("taped", "tapes", name="a tape", state="finished", segments=("tape",),
                      started_ms=1_000, ended_ms=2_000)
    def size(self, run):
        from mlflow_wandb_plugin.core.model import Size
        return Size(2, 0)
    def read(self, run, since):
        from mlflow_wandb_plugin.core.model import Series
        yield Series(("hiss",), (0, 1), (1_000, 2_000), (0.5, 0.25))
        yield run

@hookimpl
def open_source(uri):
    return Tape() if uri.startswith("tape:") else None
""")
    (site / "absentee_module.py").write_text("import a_third_party_that_is_not_installed\n")
    path = f"{site}:{env.get('PYTHONPATH', '')}".rstrip(":")
    extended = {**env, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    done = mlflow_wandb("plugins", "--json", env=extended, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row["hooks"] for row in json.loads(done.stdout)}
    assert rows["thirdparty"] == ["open_source"]
    assert set(rows["builtin"]) >= {"open_source", "open_target"}
    assert not {"broken", "absentee"} & set(rows)

    done = mlflow_wandb("backfill", "tape:any", env=extended, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = read_runs(env["MLFLOW_TRACKING_URI"]).values()
    assert (run.name, run.points("hiss")) == ("a tape", [(0, 0.5), (1, 0.25)])


def test_a_misspelt_hook_is_said(env: dict[str, str], tmp_path: Path) -> None:
    """A plugin that implements a hook nobody calls fails loudly, in one line."""
    info = tmp_path / "site" / "typo-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: typo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mlflow_wandb_plugin]\ntypo = typo_module\n")
    (tmp_path / "site" / "typo_module.py").write_text(
        "from mlflow_wandb_plugin.hookspecs import hookimpl\n"
        "@hookimpl\ndef open_sauce(uri):\n    return None\n"
    )
    path = f"{tmp_path / 'site'}:{env.get('PYTHONPATH', '')}".rstrip(":")
    done = mlflow_wandb("plugins", env={**env, "PYTHONPATH": path}, cwd=tmp_path)
    assert done.returncode == 2
    assert "open_sauce" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_says_how_to_see_each_run(env: dict[str, str], tmp_path: Path) -> None:
    """The page on a server, in MLflow's view of model training, or the command that shows a
    database; the last line counts the runs by state."""
    folder = tmp_path / "work" / "wandb" / "mlflow"
    folder.mkdir(parents=True)
    page = "http://host/#/experiments/1/runs/m?workflowType=machine_learning"
    for run_id, where in (("served", f"at {page}"), ("stored", "in sqlite:////a-b/mlflow.db")):
        document = {"state": "complete", "name": run_id, "run_id": "m", "where": where}
        (folder / f"20260101_000000-{run_id}.status").write_text(json.dumps(document))
    lines = mlflow_wandb("status", env=env, cwd=tmp_path / "work").stdout.splitlines()
    assert f"  see it: {page}" in lines
    assert "  see it: mlflow-wandb ui --to sqlite:////a-b/mlflow.db" in lines
    assert lines[-1] == "2 complete"
    rows = json.loads(mlflow_wandb("status", "--json", env=env, cwd=tmp_path / "work").stdout)
    assert {row["id"]: row["see it"] for row in rows}["served"] == page


def test_status_of_long_names_stays_within_80_columns(env: dict[str, str], tmp_path: Path) -> None:
    """Names are cut, the state is not; details are below, and JSON has everything."""
    folder = tmp_path / "work" / "wandb" / "mlflow"
    folder.mkdir(parents=True)
    name, project, error = "a very long name " * 9, "project" * 9, "no answer from the server " * 9
    document = {"state": "failed", "name": name, "project": project, "error": error,
                "run_id": "f" * 32, "losses": {"file gone": 2}}  # fmt: skip
    (folder / f"20260101_000000-{'i' * 40}.status").write_text(json.dumps(document))
    text = mlflow_wandb("status", env=env, cwd=tmp_path / "work").stdout
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "failed" in lines[1]
    assert "in MLflow: " + "f" * 32 in text
    assert "not carried: file gone: 2" in text
    assert " ".join(text.split()).count("no answer from the server") == 9
    (row,) = json.loads(mlflow_wandb("status", "--json", env=env, cwd=tmp_path / "work").stdout)
    assert (row["run"], row["project"], row["id"]) == (name, project, "i" * 40)
