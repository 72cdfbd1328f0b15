"""A real `wandb agent` works through a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import WandbServer
from .clients import Client, Worker

PROGRAM = """
import wandb
with wandb.init() as run:
    run.log({"loss": run.config["x"] * 10 + run.config["y"]})
"""


@pytest.mark.slow
def test_an_agent_runs_the_grid(server: WandbServer, reader: Worker, private: Path) -> None:
    """Each combination becomes a run of the sweep; the agent leaves when none is left."""
    name = reader.call(
        """
        import wandb
        config = {
            "name": "grid", "method": "grid", "program": "train.py",
            "metric": {"name": "loss", "goal": "minimize"},
            "parameters": {"x": {"values": [2, 1]}, "y": {"value": 3}},
        }
        result = wandb.sweep(config, project="search")
        """
    )
    private.mkdir()
    (private / "train.py").write_text(PROGRAM)
    with Client(server, private, ["-m", "wandb", "agent", f"tester/search/{name}"]) as agent:
        agent.wait()
    sweep = server.sweep(f"search/{name}")
    assert sweep.state == "FINISHED"
    assert [run.values for run in sweep.runs] == [{"x": 2, "y": 3}, {"x": 1, "y": 3}]
    assert [run.state for run in sweep.runs] == ["finished", "finished"]
    seen = reader.call(
        f"""
        import wandb
        api = wandb.Api()
        sweep = api.sweep("tester/search/{name}")
        result = {{
            "name": sweep.name, "state": sweep.state, "method": sweep.config["method"],
            "expected": sweep.expected_run_count, "best": sweep.best_run().config,
            "runs": len(sweep.runs),
            "listed": [s.id for s in api.project("search", "tester").sweeps()],
            "back": api.run("/".join(sweep.runs[0].path)).sweep.id,
            "agents": [agent.total_runs for agent in sweep.agents()],
        }}
        """
    )
    assert seen == {
        "name": "grid",
        "state": "FINISHED",
        "method": "grid",
        "expected": 2,
        "best": {"x": 1, "y": 3},
        "runs": 2,
        "listed": [name],
        "back": name,
        "agents": [2],
    }


@pytest.mark.slow
def test_an_agent_stops_at_its_count(server: WandbServer, reader: Worker, private: Path) -> None:
    """With a count the agent leaves the rest of the sweep to others."""
    name = reader.call(
        """
        import wandb
        config = {"method": "random", "program": "train.py",
                  "parameters": {"x": {"min": 1, "max": 9}, "y": {"values": [1, 2]}}}
        result = wandb.sweep(config, project="counted")
        """
    )
    private.mkdir()
    (private / "train.py").write_text(PROGRAM)
    arguments = ["-m", "wandb", "agent", "--count", "1", f"tester/counted/{name}"]
    with Client(server, private, arguments) as agent:
        agent.wait()
    sweep = server.sweep(f"counted/{name}")
    assert sweep.state == "RUNNING"
    (run,) = sweep.runs
    assert run.summary["loss"] == run.values["x"] * 10 + run.values["y"]
