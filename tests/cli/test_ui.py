"""``mlflow-wandb ui`` shows a store in MLflow's UI."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from pathlib import Path

from tests.support.commands import mlflow_wandb
from tests.support.environment import isolated
from tests.support.processes import end_gently, free_port, started, wait_until
from tests.support.stores import copy_store


def test_it_starts_mlflows_ui_on_a_database_and_prints_the_page(
    tmp_path: Path, empty_store: Path
) -> None:
    """The page answers on loopback; the URI's prefix is left out; Ctrl-C ends it."""
    uri = copy_store(empty_store, tmp_path / "mlflow.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow_wandb_plugin.cli", "ui", "--port", str(port)]
    env = isolated(tmp_path, MLFLOW_TRACKING_URI=f"wandb+{uri}")
    with started(command, env, tmp_path) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        page = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
        assert line == (
            f"MLflow's UI of {uri} starts; once it answers, its experiments are at {page} "
            "(Ctrl-C ends it)\n"
        )
        wait_until(lambda: _answers(port), what="MLflow's UI answers")
        assert _status_line(process.pid).count(uri) == 0
        end_gently(process, signal.SIGINT)
    assert not _answers(port)


def test_of_a_server_it_prints_the_page(tmp_path: Path) -> None:
    """Without a password that the URI has."""
    done = mlflow_wandb(
        "ui", "--to", "https://user:secret@ml.example/base/", env=isolated(tmp_path), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "https://ml.example/base/#/experiments?workflowType=machine_learning\n"


def test_a_database_that_is_not_there_is_not_created(tmp_path: Path) -> None:
    """One line, exit code 2."""
    env, work = isolated(tmp_path), tmp_path / "work"
    work.mkdir(exist_ok=True)
    done = mlflow_wandb("ui", "--to", f"sqlite:///{work / 'none.db'}", env=env, cwd=work)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"mlflow-wandb: there is no database {work / 'none.db'}: name MLflow's store with --to"
    )
    assert os.listdir(work) == []


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


def _status_line(pid: int) -> str:
    """The arguments of a process, which everybody on the machine can read (Linux)."""
    file = Path(f"/proc/{pid}/cmdline")
    return file.read_text() if file.exists() else ""
