"""One replicator for each folder, started without waiting and not too often."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core import helper_process, messages
from mlflow_wandb_plugin.store import replicator_start
from tests.support.environment import isolated
from tests.support.outboxes import no_replicator
from tests.support.processes import run_script, wait_until

STANDS_IN = """
import fcntl, json, os, sys, time
folder = os.path.dirname(sys.argv[1])
lock = os.open(os.path.join(folder, "delivery.lock"), os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
names = ("MLFLOW_WANDB_HOMES", "MLFLOW_WANDB_MIRROR", "WANDB_SERVICE", "MLFLOW_WANDB_AUTOLOG")
with open(os.path.join(folder, f"started.{os.getpid()}"), "w") as file:
    env = {name: os.environ.get(name) for name in names}
    json.dump({"env": env, "session": os.getsid(0)}, file)
time.sleep(60)
"""
FAILS = "import sys; print('no luck'); sys.exit(3)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An outbox; whatever was started for it is ended."""
    monkeypatch.setattr(replicator_start, "_next_check", {})
    monkeypatch.setattr(replicator_start, "_pause_s", {})
    monkeypatch.setattr(replicator_start, "_processes", {})
    monkeypatch.setattr(messages, "_shown", set())
    yield tmp_path / "outbox"
    for process in replicator_start._processes.values():
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait(timeout=10)


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    (tmp_path / "stands_in_for_the_replicator.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(helper_process, "MODULE", "stands_in_for_the_replicator")


def look_again(folder: Path) -> None:
    replicator_start._next_check.clear()
    replicator_start.ensure_running(folder)


def test_a_replicator_is_started_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its own session, no mirror, and no secrets in its command."""
    monkeypatch.setenv("WANDB_SERVICE", "somebody's")
    monkeypatch.setenv("MLFLOW_WANDB_AUTOLOG", "1")
    stand_in(monkeypatch, tmp_path, STANDS_IN)
    replicator_start.ensure_running(folder)
    wait_until(lambda: [file for file in folder.glob("started.*") if file.read_text()], 240)
    [started] = folder.glob("started.*")
    told = json.loads(started.read_text())
    assert told["env"] == {
        "MLFLOW_WANDB_HOMES": "wandb", "MLFLOW_WANDB_MIRROR": "off",
        "WANDB_SERVICE": None, "MLFLOW_WANDB_AUTOLOG": None,
    }  # fmt: skip
    assert told["session"] == int(started.suffix[1:]) != os.getsid(0)
    process = replicator_start._processes[folder]
    look_again(folder)
    assert replicator_start._processes[folder] is process


def test_script_ends_without_a_complaint(tmp_path: Path) -> None:
    """Python does not warn at exit that nobody waited for the replicator."""
    (tmp_path / "stands_in_for_the_replicator.py").write_text("")
    code = (
        "import atexit\n"
        "atexit.register(lambda: print([p.returncode is None for p in started]))\n"
        "from pathlib import Path\n"
        "from mlflow_wandb_plugin.store import replicator_start\n"
        "from mlflow_wandb_plugin.core import helper_process\n"
        "helper_process.MODULE = 'stands_in_for_the_replicator'\n"
        "replicator_start.ensure_running(Path('outbox'))\n"
        "started = list(replicator_start._processes.values())\n"
    )
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    done = run_script(code, isolated(tmp_path, PYTHONPATH=path), tmp_path)
    assert (done.stdout, done.stderr) == ("[False]\n", "")


def test_none_is_started_while_another_process_delivers(folder: Path) -> None:
    """None is started while a process holds the lock, whichever started it."""
    with no_replicator(folder):
        replicator_start.ensure_running(folder)
    assert not replicator_start._processes


def test_a_failing_replicator_is_started_less_and_less_often(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is one warning with the log's path, and the pause doubles each time."""
    stand_in(monkeypatch, tmp_path, FAILS)
    pauses = []
    for _ in range(3):
        look_again(folder)
        replicator_start._processes[folder].wait(timeout=20)
        pauses.append(replicator_start._next_check[folder])
    assert replicator_start._pause_s[folder] == 4 * replicator_start.CHECK_EVERY_S
    assert caplog.text.count("replicator.log says why") == 1
    assert "no luck" in (folder / "replicator.log").read_text()


def test_it_never_raises(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that cannot be created gives one warning, and MLflow goes on."""
    folder.write_text("a file")
    look_again(folder)
    look_again(folder)
    assert caplog.text.count("cannot start") == 1


def test_asking_often_is_cheap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call within some seconds checks nothing."""
    with no_replicator(folder):
        replicator_start.ensure_running(folder)
        monkeypatch.setattr(replicator_start, "_is_running", lambda folder: pytest.fail("looked"))
        replicator_start.ensure_running(folder)
