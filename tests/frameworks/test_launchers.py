"""Launchers, processes and threads: both homes have what W&B's own logs have."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from tests.frameworks.homes import Homes

pytestmark = pytest.mark.frameworks


def test_torchrun_with_a_run_of_rank_0(homes: Homes) -> None:
    """Other ranks leave nothing."""
    homes.torchrun("launched_rank0.py")
    (run,) = homes.compare("rank0").values()
    assert len(run.points) == 40


def test_torchrun_with_a_run_of_each_rank(homes: Homes) -> None:
    """Two runs of one group, ended by the end of their processes."""
    homes.torchrun("launched_all_ranks.py")
    runs = homes.compare("all-ranks").values()
    assert [len(run.points) for run in runs] == [40, 40]


def test_torchrun_with_one_shared_run(homes: Homes) -> None:
    """One MLflow run has the rows of both ranks."""
    homes.torchrun("launched_shared.py")
    (run,) = homes.compare("shared").values()
    assert len(run.points) == 100


METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
def test_processes_that_finish_their_runs(homes: Homes, method: str) -> None:
    """By each start method."""
    homes.run("processes.py", method, "finish")
    _two_processes(homes)


@pytest.mark.parametrize("method", METHODS)
def test_processes_of_a_parent_that_has_started_wandb(homes: Homes, method: str) -> None:
    """They do not call `finish`: wandb-core, which is the parent's, ends their runs."""
    homes.run("processes.py", method, "setup")
    _two_processes(homes)


def test_spawned_processes_end_their_runs_by_themselves(homes: Homes) -> None:
    """Without `finish`, W&B's exit hook ends a run."""
    homes.run("processes.py", "spawn", "leave")
    _two_processes(homes)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_forked_processes_that_do_not_finish(homes: Homes, method: str) -> None:
    """W&B's exit hook does not run in them, so W&B loses rows; MLflow has all of them."""
    homes.run("processes.py", method, "leave")
    assert {run.exit_code for run in homes.server.project("processes").runs.values()} == {None}
    for number in range(2):
        replica = homes.mlflow_runs()[f"worker{number}"]
        losses = [(step, 1 / (step + 1 + number)) for step in range(20)]
        assert replica.points("loss") == losses
        assert replica.latest["done"] == number
        assert (replica.status, replica.params) == ("KILLED", {"number": str(number)})


@pytest.mark.parametrize("method", METHODS)
def test_processes_that_were_handed_a_run(homes: Homes, method: str) -> None:
    """They log into it while its own process does."""
    homes.run("attached.py", method)
    (run,) = homes.compare("attached").values()
    logged = Counter(key for key, *_ in run.points)
    assert (logged["worker0"], logged["worker1"], logged["loss"]) == (200, 200, 20)
    assert logged["beside"]


@pytest.mark.parametrize(("what", "points"), [("fetch", 32), ("log", 96)])
def test_workers_of_a_data_loader(homes: Homes, what: str, points: int) -> None:
    """Workers are forked while a run is open; some log into it."""
    homes.run("loader_workers.py", what)
    (run,) = homes.compare("loader").values()
    assert len(run.points) == points


def test_threads(homes: Homes) -> None:
    """In one run, and each with a run of its own."""
    homes.run("threads.py")
    runs = homes.compare("threads")
    assert {name: len(run.points) for name, run in runs.items()} == {
        "together": 400, "own0": 50, "own1": 50, "own2": 50,
    }  # fmt: skip


def test_coroutines(homes: Homes) -> None:
    """Each with a run of its own, one of which fails."""
    homes.run("tasks.py")
    runs = homes.compare("tasks")
    assert {name: len(run.points) for name, run in runs.items()} == {
        "task0": 21, "task1": 21, "task2": 20,
    }  # fmt: skip
    assert runs["task2"].exit_codes == [1]


def test_a_notebook_whose_cells_are_run_again(homes: Homes) -> None:
    """The cell with `init` makes a second run; a cell that logs adds to it."""
    homes.run("notebook.py")
    runs = homes.compare("notebook").values()
    assert sorted(len(run.points) for run in runs) == [10, 20]


def test_the_agent_of_the_command_line(homes: Homes) -> None:
    """Two runs of a sweep, each a process that the agent starts."""
    said = homes.run("sweep.py").stdout
    (sweep,) = (line.split()[1] for line in said.splitlines() if line.startswith("SWEEP"))
    homes.command(sys.executable, "-m", "wandb", "agent", f"tester/swept/{sweep}")
    runs = homes.compare("swept").values()
    assert [(run.sweep, len(run.points)) for run in runs] == [(sweep, 20), (sweep, 20)]


def test_an_agent_that_calls_a_function(homes: Homes) -> None:
    """Three runs of a sweep in one process, one of which fails."""
    homes.run("agent_function.py")
    runs = homes.compare("function-agent").values()
    assert sorted(run.exit_codes for run in runs) == [[0], [0], [1]]


def _two_processes(homes: Homes) -> None:
    runs = homes.compare("processes").values()
    assert [len(run.points) for run in runs] == [40, 40]
