"""SIGTERM, as Kubernetes sends it: the runs are ended before the container is gone."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integrations.flyte.logged_runs import PROGRAMS, ROOT, read_logged_runs
from tests.support.processes import started, wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("where", ["container", "local"])
def test_a_terminated_tasks_runs_are_killed(
    offline: Callable[[str], dict[str, str]], where: str
) -> None:
    """By the time that the process is gone both homes know, and it died of the signal. A local run
    executes tasks in another thread than the main one, where the decorator was applied."""
    env = {**offline("terminated"), "PYTHONPATH": f"{ROOT}:{ROOT / 'integrations'}"}
    env["MLFLOW_WANDB_INIT_TIMEOUT"] = "90"
    work = Path(env["WANDB_DIR"])
    with started([sys.executable, str(PROGRAMS / "terminated.py"), where], env, work) as process:
        wait_until((work / "works").exists, 120, "the task works")
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, out + err
    homes = read_logged_runs(env)
    (born,) = [run for run in homes.mlflow.values() if "wandb.run_id" not in run.tags]
    (run_id,) = homes.mlflow.keys() - {born.run_id}
    assert (homes.wandb[run_id].info.state, homes.wandb[run_id].info.exit_code) == ("killed", 255)
    assert homes.mlflow[run_id].status == "KILLED"
    assert homes.values(run_id, "x") == [1]
    assert (born.status, born.points("y")) == ("KILLED", [(0, 2.0)])
