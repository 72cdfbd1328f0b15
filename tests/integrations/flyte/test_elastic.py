"""Real Elastic workers over gloo: which runs they open, and how those end."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integrations.flyte.logged_runs import PROGRAMS, ROOT, LoggedRuns, read_logged_runs
from tests.support.processes import free_port, started

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("flyteplugins.pytorch", reason="flyteplugins-pytorch is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def launch(env: dict[str, str], nodes: int, *tasks: str) -> LoggedRuns:
    """Run tasks on each of the nodes, which are processes of this machine."""
    notes = Path(env["WANDB_DIR"]) / "notes"
    notes.mkdir()
    env = {
        **env,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'integrations'}",
        "NODES": str(nodes),
        "NOTES": str(notes),
        # Nodes meet at an address; one alone finds a free one for each launch.
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{free_port() if nodes > 1 else 0}",
        "MLFLOW_WANDB_INIT_TIMEOUT": "120",
        "MLFLOW_WANDB_FINISH_TIMEOUT": "120",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(PROGRAMS / "elastic.py"), *tasks]
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(started(command, env, Path(env["WANDB_DIR"]))) for _ in range(nodes)
        ]
        outputs = [one.communicate(timeout=500) for one in running]
    said = {}
    for process, (out, err) in zip(running, outputs, strict=True):
        assert process.returncode == 0, out[-4000:] + err[-8000:]
        said.update(json.loads(out.splitlines()[-1]))
    said["notes"] = [file.read_text() for file in sorted(notes.iterdir())]
    return read_logged_runs(env, said, "".join(out + err for out, err in outputs))


@pytest.fixture(scope="module")
def rows(offline: Callable[[str], dict[str, str]]) -> LoggedRuns:
    """All six rows of run_mode × rank_scope, on two nodes with two processes each."""
    return launch(offline("rows"), 2, "six_rows")


ROWS = {
    "auto/global": {0: "auto-global"},
    "auto/worker": {0: "auto-worker-worker-0", 2: "auto-worker-worker-1"},
    "shared/global": dict.fromkeys(range(4), "shared-global"),
    "shared/worker": {rank: f"shared-worker-worker-{rank // 2}" for rank in range(4)},
    "new/global": {rank: f"new-global-rank-{rank}" for rank in range(4)},
    "new/worker": {rank: f"new-worker-worker-{rank // 2}-rank-{rank % 2}" for rank in range(4)},
}


@pytest.mark.parametrize("row", ROWS)
def test_workers_open_the_runs_of_the_table(rows: LoggedRuns, row: str) -> None:
    """Who has a run, which id it has, and whose points are in it, in both homes."""
    seen = Counter(note for note in rows.said["notes"] if note.startswith(f"{row} "))
    ids = [ROWS[row].get(rank) for rank in range(4)]
    assert seen == Counter(f"{row} {run_id}" for run_id in ids)
    for run_id in set(ROWS[row].values()):
        ranks = sorted(float(rank) for rank, wanted in ROWS[row].items() if wanted == run_id)
        assert rows.values(run_id, "rank") == ranks
        assert rows.mlflow[run_id].status == "FINISHED"


def test_runs_of_their_own_have_a_group_and_a_parent(rows: LoggedRuns) -> None:
    """In W&B one group, in MLflow one parent: for all, or for each node."""
    for row, run_ids in ROWS.items():
        for rank, run_id in run_ids.items():
            group = f"new-worker-worker-{rank // 2}" if row == "new/worker" else "new-global"
            group = group if row.startswith("new") else ""
            assert {info.group for info in rows.wandb[run_id].infos} == {group}
            parent = rows.mlflow[run_id].tags.get("mlflow.parentRunId")
            named = [one.name for one in rows.mlflow.values() if one.run_id == parent]
            assert named == ([group] if group else [])
    parents = [run for run in rows.mlflow.values() if "mlflow.wandb.parent_of_group" in run.tags]
    assert len(parents) == 3


def test_track_in_a_shared_run_is_one_mlflow_run(rows: LoggedRuns) -> None:
    """MLflow's calls of all ranks land in the replica."""
    assert rows.mlflow["shared-global"].points("by_mlflow") == [(r, float(r)) for r in range(4)]


def test_there_are_no_other_runs(rows: LoggedRuns) -> None:
    """Each W&B run has one MLflow run; beside them only the three parents."""
    wanted = {run_id for ids in ROWS.values() for run_id in ids.values()}
    assert set(rows.wandb) == wanted
    assert len(rows.mlflow) == len(wanted) + 3


@pytest.fixture(scope="module")
def ends(offline: Callable[[str], dict[str, str]]) -> LoggedRuns:
    """One node with two processes: success, failure, kill and retry, each a launch of its own."""
    tasks = ("meets", "fails", "killed_once:0", "killed_once:1")
    return launch(offline("ends"), 1, *tasks)


def test_only_rank_0_has_runs_by_default(ends: LoggedRuns) -> None:
    """The task succeeds, and both of its runs."""
    assert ends.said["meets"] == ""
    assert ends.values("meets-a0", "rank") == [0]
    assert ends.mlflow["meets-a0"].points("by_mlflow") == [(0, 0.0)]
    assert ends.mlflow["meets-a0"].status == "FINISHED"


def test_a_failed_worker_fails_its_runs_and_its_peers_are_killed(ends: LoggedRuns) -> None:
    """Rank 1 raises: its run has failed. The agent ends rank 0: killed, in MLflow's run, too."""
    assert ends.said["fails"] == "failed"
    states = [ends.wandb[f"fails-a0-rank-{rank}"].info.state for rank in (0, 1)]
    assert states == ["killed", "failed"]
    assert [ends.mlflow[f"fails-a0-rank-{rank}"].status for rank in (0, 1)] == ["KILLED", "FAILED"]
    (born,) = [
        run
        for run in ends.mlflow.values()
        if run.tags.get("flyte.run_name") == "fails" and "wandb.run_id" not in run.tags
    ]
    assert born.status == "KILLED"
    assert ends.values("fails-a0-rank-1", "rank") == [1]


def test_a_killed_workers_runs_are_killed(ends: LoggedRuns) -> None:
    """SIGKILL of rank 0, whose MLflow run the task ends; SIGTERM of rank 1 by the agent."""
    assert ends.said["killed_once:0"] == "failed"
    after = ends.said["after killed_once:0"]
    runs = ("killed-once-a0-rank-0", "killed-once-a0-rank-1", "killed-once")
    assert {run: after[run] for run in runs} == dict.fromkeys(runs, "KILLED")


def test_a_retried_task_resumes_the_same_runs(ends: LoggedRuns) -> None:
    """The next attempt finishes them. MLflow has the points of both attempts, also those of rank 0,
    whose own log wandb lost when it was killed."""
    assert ends.said["killed_once:1"] == ""
    assert ends.wandb["killed-once-a0-rank-1"].states == ["killed", "finished"]
    for rank in (0, 1):
        twin = ends.mlflow[f"killed-once-a0-rank-{rank}"]
        assert [value for _, value in twin.points("rank")] == [rank, rank]
        assert twin.status == "FINISHED"
    assert ends.said["after killed_once:1"]["killed-once"] == "FINISHED"
