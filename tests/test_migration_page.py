"""The blocks of docs/migration.md, one after another, against a loopback W&B server and MLflow."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.support.documents import TRAIN, blocks
from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_command
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

pytestmark = pytest.mark.slow

BLOCKS = [block for block in blocks() if block.page == "docs/migration.md"]
CODE = [block.code for block in BLOCKS]
DUAL, BACKFILL, DELETE, VERIFY, ARCHIVE, CUT_OVER, BACK = range(7)
LOSSES = [1.0, 0.5, 1 / 3]
TEAM = "my-team"


class Journey:
    """A user's shell in the folder of a W&B script, and both homes."""

    def __init__(self, folder: Path, server: WandbServer, empty_store: Path) -> None:
        self.server = server
        self.folder = folder
        self.uri = copy_store(empty_store, folder / "mlflow.db")
        self.env = {
            **isolated(folder),
            **server.env(folder / "client"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "WANDB_MODE": "online",
            "WANDB_ENTITY": TEAM,
            "WANDB_DIR": str(folder / "work"),
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_WANDB_FINISH_TIMEOUT": "180",
            "PYTHONWARNINGS": "ignore",
        }
        (folder / "work" / "train.py").write_text(TRAIN)

    def follow(self, number: int, change: Callable[[str], str] = str) -> str:
        """Run a block of the page; its output."""
        code, kind = change(CODE[number]), BLOCKS[number].kind
        start = [sys.executable, "-c"] if kind == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = run_command([*start, code], self.env, self.folder / "work", timeout=300)
        return done.stdout + done.stderr

    @property
    def mlflow(self) -> dict[str, RunState]:
        return read_runs(self.uri)

    @property
    def wandb(self) -> set[str]:
        return set(self.server.project("mnist", TEAM).runs)

    def origins(self) -> dict[str, str]:
        return {run_id: run.tags["mlflow.wandb.origin"] for run_id, run in self.mlflow.items()}


def test_a_project_leaves_wandb_and_comes_back(tmp_path: Path, empty_store: Path) -> None:
    """In each phase both homes have what the page says, and so they have after each way back."""
    with WandbServer(tmp_path / "server") as server:
        rows = [{"_step": n, "_timestamp": 1.7e9 + n, "loss": x} for n, x in enumerate(LOSSES)]
        server.add_run("mnist", "old", entity=TEAM, rows=rows)
        journey = Journey(tmp_path, server, empty_store)

        journey.follow(DUAL)
        (first,) = journey.wandb - {"old"}
        assert journey.origins() == {first: "dual"}

        said = journey.follow(BACKFILL)
        assert "1 migrated, 1 skipped as dual-written" in said
        assert journey.origins() == {first: "dual", "old": "backfill"}
        journey.follow(DELETE)
        assert journey.origins() == {first: "dual"}
        journey.follow(BACKFILL)
        assert journey.origins() == {first: "dual", "old": "backfill"}

        assert "2 equal" in journey.follow(VERIFY)
        journey.follow(ARCHIVE)
        assert len(list((tmp_path / "work" / "kept").rglob("run.json"))) == 2

        cut_over = datetime.now(timezone.utc).isoformat()
        journey.follow(CUT_OVER)
        assert journey.wandb == {first, "old"}
        (alone,) = journey.origins().keys() - {first, "old"}

        journey.follow(BACK, lambda code: code.replace("2026-12-01", cut_over))
        (last,) = journey.wandb - {first, "old", alone}
        assert journey.wandb == {first, "old", alone, last}
        for run in journey.mlflow.values():
            assert [value for _, value in run.points("loss")] == LOSSES
        assert set(journey.mlflow) == journey.wandb


def test_the_page_has_no_other_blocks() -> None:
    """Blocks that the test above would miss are noticed."""
    assert len(CODE) == 7
    assert "2026-12-01" in CODE[BACK]
    assert "delete_run" in CODE[DELETE]
