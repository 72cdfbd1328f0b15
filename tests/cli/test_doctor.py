"""``mlflow-wandb doctor``: what it finds, what it says to do, and what it leaves alone."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.diagnosis import homes, installation
from mlflow_wandb_plugin.diagnosis.check import Check
from mlflow_wandb_plugin.diagnosis.homes import TimedChecks
from tests.support.commands import mlflow_wandb
from tests.support.processes import free_port
from tests.wandb_server import WandbServer

KEY = "b" * 40


def by_name(text: str) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(text)["checks"]}


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_all_is_well(env: dict[str, str], tmp_path: Path) -> None:
    """Versions, a line for each check, the verdict; nothing is created; -q leaves the last line."""
    work = tmp_path / "work"
    before = sorted(tmp_path.rglob("mlflow.db*"))
    done = mlflow_wandb("doctor", env=env, cwd=work)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["mlflow-wandb-plugin", "mlflow", "wandb"]
    assert lines[-1].endswith(" 0 problems")
    for what in (
        f"ok      MLflow answers: {env['MLFLOW_TRACKING_URI']}",
        "ok      schema: the tables are those of the installed MLflow",
        "ok      write path: bulk SQL",
        "ok      W&B account: wandb is offline",
        "ok      wandb can be followed",
        "ok      extra archive: installed",
        "ok      journals: none wait",
        "ok      MLflow's methods are known",
    ):
        assert any(line.startswith(what) for line in lines), what
    assert os.listdir(work) == []
    assert sorted(tmp_path.rglob("mlflow.db*")) == before
    quiet = mlflow_wandb("doctor", "-q", env=env, cwd=work)
    assert quiet.stdout.splitlines() == lines[-1:]


def test_a_store_that_does_not_exist_is_not_created(env: dict[str, str], tmp_path: Path) -> None:
    """Neither MLflow's default in the current folder, nor one that --to names."""
    work = tmp_path / "work"
    del env["MLFLOW_TRACKING_URI"]
    for arguments in ((), ("--to", "sqlite:///other.db")):
        done = mlflow_wandb("doctor", "--json", *arguments, env=env, cwd=work)
        assert done.returncode == 0, done.stdout + done.stderr
        found = by_name(done.stdout)["MLflow answers"]
        assert (found["state"], found["said"].endswith("does not exist yet")) == ("note", True)
        assert os.listdir(work) == []


def test_servers_that_never_answer_are_a_problem_in_bounded_time(
    env: dict[str, str], tmp_path: Path, silent: str
) -> None:
    """Both are named without the keys, and the other checks are made all the same."""
    variables = {
        **env,
        "MLFLOW_TRACKING_URI": f"http://user:secret@{silent}",
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": f"http://{silent}",
        "WANDB_API_KEY": KEY,
    }
    done = mlflow_wandb("doctor", "--json", env=variables, cwd=tmp_path / "work", timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    found = by_name(done.stdout)
    for name in ("MLflow answers", "W&B account"):
        assert found[name]["state"] == "problem"
        assert found[name]["todo"]
    assert found["wandb can be followed"]["state"] == "ok"
    assert silent in done.stdout
    for secret in ("secret", KEY):
        assert secret not in done.stdout + done.stderr


def test_a_check_is_not_waited_for_when_its_time_is_up() -> None:
    """What it has found by then counts; the rest is a problem that names the server."""
    ended = threading.Event()

    def checks() -> Iterator[Check]:
        yield Check("first", "ok", "found")
        ended.wait(60)

    found = TimedChecks("answers", checks, "http://there", "start it").results()
    ended.set()
    assert [one.name for one in found] == ["first", "answers"]
    assert (found[1].state, found[1].todo) == ("problem", "start it")
    assert found[1].said.startswith("http://there has not answered within")


def test_an_mlflow_that_is_not_there(env: dict[str, str], tmp_path: Path) -> None:
    """A problem with what to do about it, exit code 1, and no password."""
    away = {**env, "MLFLOW_TRACKING_URI": f"http://user:secret@127.0.0.1:{free_port()}"}
    done = mlflow_wandb("doctor", env=away, cwd=tmp_path / "work")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (at,) = (number for number, line in enumerate(lines) if "problem MLflow answers" in line)
    assert lines[at + 1].strip().startswith("start it (one that just started is slow), or")
    assert "secret" not in done.stdout + done.stderr


def test_a_server_tells_its_version_and_whose_credentials_are_sent(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how points are written there, without the password."""
    from importlib.metadata import version

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    found = {check.name: check for check in homes._mlflow(server)}
    assert found["MLflow answers"].said == f"{server} (version {version('mlflow')})"
    assert found["MLflow account"].said == "ada"
    assert found["write path"].said.startswith("REST ")
    assert "fast+" in found["write path"].todo
    assert "secret" not in str(found)


@pytest.mark.usefixtures("logged_out")
def test_the_account_of_a_wandb_key_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key itself is not; one that W&B refuses is told with what to do."""
    with WandbServer(tmp_path / "server") as running:
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", running.api_key)
        (check,) = homes._wandb(running.url)
        assert check.state == "ok"
        assert check.said.startswith(running.store.user.username)
        assert check.said.endswith(f" at {running.url}")
        assert running.api_key not in check.said


def test_journals_that_wait_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that delivers them."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    folder = tmp_path / "wandb" / "mlflow"
    folder.mkdir(parents=True)
    (folder / "20260101_000000-x.journal").write_bytes(b"12345")
    (found,) = (check for check in installation.installation_checks() if check.name == "journals")
    assert (found.state, found.todo) == ("note", "mlflow-wandb sync")
    assert found.said == f"1 wait to be delivered (5 bytes) in {tmp_path}"


def test_an_extra_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is missing, or has a version that does not fit."""
    info = tmp_path / "mlflow_wandb_plugin-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mlflow-wandb-plugin\nVersion: 9\nProvides-Extra: shiny\n"
        "Provides-Extra: fine\nRequires-Dist: click\n"
        "Requires-Dist: no-such-thing; extra == 'shiny'\n"
        "Requires-Dist: rich<1; extra == 'shiny'\nRequires-Dist: rich; extra == 'fine'\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = {check.name: check for check in installation.installation_checks()}
    assert found["extra fine"].state == "ok"
    shiny = found["extra shiny"]
    assert shiny.said.startswith("not installed: no-such-thing, rich ")
    assert shiny.todo == "if you need it: pip install 'mlflow-wandb-plugin[shiny]'"
