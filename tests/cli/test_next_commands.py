"""The last lines of commands: what was done, and what to type next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core import tracking_uri
from tests.backfill.written import RUNS, make_folder
from tests.support.commands import main_in_process
from tests.support.mlflow_state import read_runs

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process, as in a pipe: exit code, stdout, stderr."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        return main_in_process(capsys, monkeypatch, *arguments)

    return call


def next_command(out: str) -> list[str]:
    """The arguments of the command at the end of the last line."""
    _, found, rest = out.splitlines()[-1].partition("mlflow-wandb ")
    assert found
    return shlex.split(rest)


def test_a_backfill_ends_with_the_command_that_checks_it(
    command: Command, tmp_path: Path, fresh_store: str
) -> None:
    """Of the same source, target and selection; which ends with its verdict in turn."""
    folder = tmp_path / "my wandb"
    make_folder(folder, "p")
    code, out, _ = command(
        "backfill", folder, "--to", fresh_store, "--run", "p[0-2]", "--no-artifacts",
        "--workers", "1", "--experiment", "kept",
    )  # fmt: skip
    assert code == 0
    last = out.splitlines()[-1]
    assert last.startswith("3 migrated, 0 skipped, 0 lost. Check: mlflow-wandb verify ")
    assert out.splitlines()[-2] == f"See them: mlflow-wandb ui --to {fresh_store}"
    wanted = ["verify", str(folder), "--to", fresh_store, "--run", "p[0-2]",
              "--experiment", "kept", "--no-artifacts"]  # fmt: skip
    assert sorted(next_command(out)) == sorted(wanted)
    code, out, _ = command(*next_command(out))
    assert code == 0
    assert out.splitlines()[-1].startswith("3 equal. The target has all of it.")
    code, out, _ = command(*next_command(out))
    assert (code, "may be deleted" in out) == (0, True)


def test_verify_says_how_to_repair(command: Command, tmp_path: Path, fresh_store: str) -> None:
    """The command at the end of the line repairs, and runs that are absent are another matter."""
    import mlflow

    make_folder(tmp_path / "wandb", "p")
    code, out, _ = command("verify", tmp_path / "wandb", "--to", fresh_store)
    assert code == 1
    assert out.splitlines()[-1].startswith(f"{RUNS} absent. The target lacks runs: ")
    command("backfill", tmp_path / "wandb", "--to", fresh_store)
    run = read_runs(fresh_store)["p0"]
    mlflow.MlflowClient(fresh_store).set_terminated(run.run_id, "FAILED")
    code, out, _ = command("verify", tmp_path / "wandb", "--to", fresh_store)
    assert code == 1
    assert next_command(out)[-1] == "--repair"
    code, out, _ = command(*next_command(out))
    assert code == 0, out


def test_a_server_has_links_and_no_command(command: Command, tmp_path: Path, server: str) -> None:
    """Each run's link opens MLflow's view of model training."""
    make_folder(tmp_path / "wandb", "linked")
    code, out, _ = command("backfill", tmp_path / "wandb", "--to", server)
    assert code == 0
    links = re.findall(rf"{server}/#/experiments/\d+/runs/\w+\?workflowType=machine_learning", out)
    assert len(set(links)) == RUNS
    assert "mlflow-wandb ui" not in out


def test_credentials_are_left_out_of_commands() -> None:
    """Of servers and databases; the place of a run says how to see it."""
    password = "postgresql://user:secret@host/db"
    assert tracking_uri.ui_command(password) == "mlflow-wandb ui --to postgresql://host/db"
    assert tracking_uri.ui_command("http://user:secret@host") == ""
    assert tracking_uri.ui_command("sqlite:///my db") == "mlflow-wandb ui --to 'sqlite:///my db'"
    page = tracking_uri.where("http://host", "1", "r")
    assert tracking_uri.how_to_see(page) == (
        "http://host/#/experiments/1/runs/r?workflowType=machine_learning"
    )
    stored = tracking_uri.where("sqlite:////x.db", "1", "r")
    assert tracking_uri.how_to_see(stored) == "mlflow-wandb ui --to sqlite:////x.db"
    assert tracking_uri.how_to_see("") == ""


def test_a_plan_ends_with_what_it_would_cost(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--dry-run is --plan: runs and time, the experiment of each run, a legend; nothing is made."""
    make_folder(tmp_path / "wandb", "p")
    target = f"sqlite:///{tmp_path / 'new.db'}"
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(
        "backfill", "wandb", "--to", target, "--dry-run", "--experiment", "kept/{project}"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[-1] == f"{RUNS} of {RUNS} runs to migrate: less than 10 seconds"
    assert "new: the target does not have it; it is migrated" in lines
    assert out.count("kept/p") == RUNS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wandb"]
