"""`mlflow-wandb run -- wandb agent …`: the runs that a real agent starts are dual-written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.mlflow_state import read_runs
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import Client, Worker

PROGRAM = """
import wandb
with wandb.init() as run:
    for i in range(4):
        run.log({"loss": run.config["x"] * 10 + i})
"""

SWEEP = """
import wandb
config = {"method": "grid", "program": "train.py", "parameters": {"x": {"values": [1, 2]}}}
result = wandb.sweep(config, project="agents")
"""


@pytest.mark.slow
def test_an_agents_runs_are_in_wandb_and_mlflow(tmp_path: Path, empty_store: Path) -> None:
    """Two unmodified runs of a sweep are in W&B, and complete in MLflow below one run."""
    uri = copy_store(empty_store, tmp_path / "mlflow.db")
    with WandbServer(tmp_path / "server") as server:
        with Worker(server, tmp_path / "sweep") as worker:
            sweep = worker.call(SWEEP)
        home = tmp_path / "agent"
        home.mkdir()
        (home / "train.py").write_text(PROGRAM)
        command = ["-m", "mlflow_wandb_plugin.cli", "run", "--", sys.executable, "-m", "wandb",
                   "agent", f"tester/agents/{sweep}"]  # fmt: skip
        extra = {
            "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_WANDB_INIT_TIMEOUT": "120", "MLFLOW_WANDB_FINISH_TIMEOUT": "120",
        }  # fmt: skip
        with Client(server, home, command, extra) as agent:
            agent.wait(240)
        runs = server.sweep(f"agents/{sweep}").runs
        assert [run.state for run in runs] == ["finished", "finished"]
        named = {run.values["mlflow_run_id"]: run for run in runs}
    states = read_runs(uri)
    replicas = {key: state for key, state in states.items() if "wandb.run_id" in state.tags}
    assert len(states) == 3
    assert {state.run_id for state in replicas.values()} == named.keys()
    for state in replicas.values():
        x = named[state.run_id].values["x"]
        assert state.points("loss") == [(i, x * 10.0 + i) for i in range(4)]
        assert (state.status, state.params["x"]) == ("FINISHED", str(x))
        assert state.tags["mlflow.wandb.state"] == "complete"
    assert len({state.tags["mlflow.parentRunId"] for state in replicas.values()}) == 1
