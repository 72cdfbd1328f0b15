"""One helper process for each folder of journals, whoever writes there."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core.helper_process import MODULE
from tests.support.mlflow_state import read_runs
from tests.support.processes import free_port, mlflow_server, run_script, started, wait_until

TRAINS = """
import sys, time
from pathlib import Path
import mlflow_wandb_plugin.wandb as wandb

name = sys.argv[1]
with wandb.init(project="shared", id=name) as run:
    run.log({"loss": 0.5})
    Path(f"{name}.ready").touch()
    while not Path("go").exists():
        time.sleep(0.05)
    run.log({"loss": 0.25})
"""
MIRRORS = """
import sys, time
from pathlib import Path
import mlflow

name = sys.argv[1]
with mlflow.start_run(run_name=name):
    mlflow.log_metric("loss", 0.5)
    Path(f"{name}.ready").touch()
    while not Path("go").exists():
        time.sleep(0.05)
"""
EARLY = """
import os, time
from pathlib import Path
import mlflow_wandb_plugin

mlflow_wandb_plugin.autolog()
deadline = time.monotonic() + 120
while not list(Path("wandb/mlflow").glob("*.pipe")):
    assert time.monotonic() < deadline, "no replicator"
    time.sleep(0.05)
"""
LEFT = """
import wandb
import mlflow_wandb_plugin

mlflow_wandb_plugin.autolog(finish_timeout=0)
with wandb.init(project="left", id="left", config={"lr": 0.1}, tags=["t"]) as run:
    for step in range(20):
        run.log({"loss": 1 / (step + 1), "h": wandb.Histogram([1, 2, 3])})
    run.log({"table": wandb.Table(columns=["a"], data=[[1]])})
    run.summary["best"] = 0.05
"""
CHILD_WITHOUT_REQUEST = """
import os
import mlflow_wandb_plugin
from mlflow_wandb_plugin.live.replicator_process import Replicator

mlflow_wandb_plugin.autolog()
import wandb

wandb.setup()
child = os.fork()
if not child:
    # As where it ends before it has sent anything.
    Replicator.start = classmethod(lambda cls, folder, uri: Replicator.__new__(Replicator))
    Replicator.ship = lambda *arguments: None
    Replicator.trouble = ""
    run = wandb.init(project="forked", id="child")
    for step in range(20):
        run.log({"loss": step / 2})
    os._exit(0)
os.waitpid(child, 0)
"""
SHIPS = """
import sys
from pathlib import Path
from mlflow_wandb_plugin.core.partial_import import allow_partial_import, is_partial

allow_partial_import()
from mlflow_wandb_plugin.replicator.mlflow_shipment import MlflowShipment

[journal] = Path("wandb/mlflow").absolute().glob("*.journal")
print(MlflowShipment(journal, sys.argv[1], "{project}", False, lambda: False).ship())
print(is_partial("mlflow"), is_partial("wandb"), "sqlalchemy" in sys.modules)
"""


def replicators(folder: Path) -> list[int]:
    """Process ids of the replicators that work in ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if MODULE in command and any(part.startswith(f"{folder}/") for part in command):
            found.append(int(process.name))
    return found


@pytest.mark.slow
def test_processes_and_directions_share_one_replicator(env: dict[str, str], tmp_path: Path) -> None:
    """Three processes with W&B runs and one that mirrors an MLflow run have one helper."""
    work = Path(env["WANDB_DIR"])
    (work / "trains.py").write_text(TRAINS)
    (work / "mirrors.py").write_text(MIRRORS)
    mirroring = {**env, "MLFLOW_TRACKING_URI": f"wandb+{env['MLFLOW_TRACKING_URI']}"}
    commands = [(f"run-{number}", "trains.py", env) for number in range(3)]
    commands.append(("mirrored", "mirrors.py", mirroring))
    with ExitStack() as stack:
        processes = []
        for name, script, variables in commands:
            command = [sys.executable, script, name]
            processes.append(stack.enter_context(started(command, variables, work)))
        for name, _, _ in commands:
            wait_until((work / f"{name}.ready").exists, 240, name)
        folder = work / "wandb" / "mlflow"
        wait_until(lambda: len(list(folder.glob("*.pipe"))) == 1, 240, "the replicator")
        wait_until(lambda: len(replicators(folder)) == 1, 240, "one replicator")
        (work / "go").touch()
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    wait_until(lambda: not list(folder.glob("*.journal")), 240, "the delivery of all journals")
    runs = read_runs(env["MLFLOW_TRACKING_URI"])
    for number in range(3):
        assert runs[f"run-{number}"].points("loss") == [(0, 0.5), (1, 0.25)]
    assert len(list((work / "wandb").glob("offline-run-*"))) == 4


def test_it_starts_with_autolog_and_leaves_nothing_behind(
    env: dict[str, str], tmp_path: Path
) -> None:
    """It runs before there is a run; if there never is one, wandb's folder is gone afterwards."""
    work = Path(env["WANDB_DIR"])
    run_script(EARLY, env, work, timeout=240)
    wait_until(lambda: not (work / "wandb").exists(), 240, "the end of the replicator")


def test_what_a_process_left_without_a_request_is_delivered(
    env: dict[str, str], tmp_path: Path
) -> None:
    """A forked process may end before its request is sent: its journal is not left behind."""
    work = Path(env["WANDB_DIR"])
    run_script(CHILD_WITHOUT_REQUEST, env, work, timeout=240)
    folder = work / "wandb" / "mlflow"
    wait_until(lambda: not list(folder.glob("*.journal")), 240, "the delivery of the journal")
    [run] = read_runs(env["MLFLOW_TRACKING_URI"]).values()
    assert run.points("loss") == [(step, step / 2) for step in range(20)]


@pytest.mark.slow
def test_a_tracking_server_needs_a_part_of_mlflow(env: dict[str, str], tmp_path: Path) -> None:
    """A run with files and a histogram is written to a server without importing the rest."""
    work = Path(env["WANDB_DIR"])
    away = {**env, "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    run_script(LEFT, {**away, "MLFLOW_WANDB_LINGER": "0"}, work)
    wait_until(lambda: not replicators(work / "wandb" / "mlflow"), 240, "the replicator's end")
    with mlflow_server(tmp_path / "server") as uri:
        script = SHIPS.replace("sys.argv[1]", repr(uri))
        done = run_script(script, env, work, timeout=240)
        [run] = read_runs(uri).values()
    assert done.stdout.split() == ["complete", "True", "True", "False"]
    assert run.points("loss") == [(step, 1 / (step + 1)) for step in range(20)]
    assert run.params["lr"] == "0.1"
    assert run.status == "FINISHED"
