"""A run whose mirror ended before MLflow had all of it is completed by a backfill."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_wandb_plugin.store import uris
from tests.store.carried import points_in_wandb
from tests.support.commands import mlflow_wandb
from tests.support.processes import run_script
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer
from tests.wandb_server.clients import environment

pytestmark = pytest.mark.timeout(300)

AT_MS = 1_790_000_000_000
MIRRORED = f"""
import os
import mlflow
run = mlflow.start_run(run_id=os.environ.get("RUN"))
first = 6 if "RUN" in os.environ else 0
for step in range(first, first + 3):
    mlflow.log_metrics({{"loss": step / 2, "acc": 1.0}}, step=step, timestamp={AT_MS} + step)
print(run.info.run_id, flush=True)
# As a script that is killed: the run does not end.
os._exit(0)
"""
UNSEEN = f"""
import os
import mlflow
with mlflow.start_run(run_id=os.environ["RUN"]):
    for step in range(3, 6):
        mlflow.log_metrics({{"loss": step / 2}}, step=step, timestamp={AT_MS} + step)
"""


def test_a_backfill_adds_what_the_mirror_of_a_run_did_not_get(
    tmp_path: Path, empty_store: Path
) -> None:
    """Once and without doubling a point, also while the tracking URI is that of the mirror; the
    rows that are there stay. `verify` finds the run equal then."""
    uri = copy_store(empty_store, tmp_path / "mlflow.db")
    work = tmp_path / "work"
    work.mkdir()
    with WandbServer(tmp_path / "server") as server:
        # Earlier tests may have switched the mirror off in this process.
        more = {"WANDB_MODE": "online", uris.MIRROR: ""}
        env = environment(server, tmp_path / "env", more)
        mirrored, plain = (env | {"MLFLOW_TRACKING_URI": to} for to in (f"wandb+{uri}", uri))
        run_id = run_script(MIRRORED, mirrored, work).stdout.split()[-1]
        _run(mirrored, work, "sync")
        run_script(MIRRORED, mirrored | {"RUN": run_id}, work)
        _run(mirrored, work, "sync")
        # Without the mirror, as where its journal's disk is full.
        run_script(UNSEEN, plain | {"RUN": run_id}, work)
        (run,) = server.runs
        before = [dict(line.row) for line in run.history.live]
        assert len(before) == 6
        to = f"wandb://{server.store.user.username}"
        assert "1 repaired" in _run(mirrored, work, "backfill", uri, "--to", to)
        assert "0 migrated, 1 skipped" in _run(mirrored, work, "backfill", uri, "--to", to)
        assert "1 equal" in _run(plain, work, "verify", uri, "--to", to)
        after = [dict(line.row) for line in run.history.live]
        assert after[:6] == before
        assert len(after) == 9
        logged = [("loss", step / 2, AT_MS + step, step) for step in range(9)]
        logged += [("acc", 1.0, AT_MS + step, step) for step in (0, 1, 2, 6, 7, 8)]
        found = [(key, float(value), at, step) for key, value, at, step in points_in_wandb(run)]
        assert sorted(found) == sorted(logged)
        assert run.state == "finished"


def _run(env: dict[str, str], work: Path, *arguments: str) -> str:
    done = mlflow_wandb(*arguments, env=env, cwd=work, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
