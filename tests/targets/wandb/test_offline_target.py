"""Runs of a server become offline runs, and `wandb sync` uploads them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.core.identity import Origin
from mlflow_wandb_plugin.core.model import RunInfo, Selection
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.errors import TargetError
from mlflow_wandb_plugin.targets.wandb.offline_target import OfflineTarget
from tests.support.wandb_source import source_of
from tests.support.wandb_state import differing, project_of, project_state
from tests.wandb_server import WandbServer

BACKFILL: Origin = "backfill"


@pytest.mark.slow
def test_wandb_sync_takes_the_folder(tmp_path: Path) -> None:
    """What it uploads is equal to the source; a second backfill has nothing to do."""
    with WandbServer(tmp_path / "a") as source, WandbServer(tmp_path / "b") as target:
        for number in range(3):
            source.add_run(
                "plain", f"r{number}", display_name=f"name {number}", config={"lr": number / 7},
                rows=[{"_step": i, "_timestamp": 1.7e9 + i, "x": i / 3, "n": {"y": i}}
                      for i in range(20)],
                files={"saved.bin": bytes([number]) * 100}, notes="a note", tags=["t"],
            )  # fmt: skip
        folder = tmp_path / "offline"
        places = [OfflineTarget(folder, TargetOptions()) for _ in range(2)]
        rounds = [list(backfill(source_of(source, "plain"), one, Selection())) for one in places]
        assert [[run.action for run in runs] for runs in rounds] == [
            ["migrated"] * 3,
            ["skipped"] * 3,
        ]
        names = sorted(path.name for path in folder.iterdir())
        assert len(names) == 3
        assert all(name.startswith("offline-run-2") for name in names)
        env = os.environ | target.env(tmp_path / "client")
        command = [sys.executable, "-m", "wandb", "sync", *(str(folder / name) for name in names)]
        subprocess.run(command, env=env, cwd=tmp_path, check=True, timeout=120)
        wanted = project_state(project_of(source, "tester", "plain"))
        found = project_state(project_of(target, "tester", "plain"))
        assert differing(found, wanted) == []


def test_nothing_of_an_unfinished_run_has_its_name(tmp_path: Path) -> None:
    """`wandb sync` must not find a log that is being written."""
    target = OfflineTarget(tmp_path / "offline", TargetOptions())
    info = RunInfo("r1", "p", started_ms=1_700_000_000_000)
    writer = target.open(info, BACKFILL)
    assert list((tmp_path / "offline").glob("offline-run-*")) == []
    writer.close()
    assert list((tmp_path / "offline").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The run fails with the place and the reason."""
    root = tmp_path / "offline"
    target = OfflineTarget(root, TargetOptions())
    shutil.rmtree(root)
    root.write_text("a file")
    with pytest.raises(TargetError, match="cannot be written: "):
        target.open(RunInfo("r1", "p", started_ms=0), BACKFILL)


def test_another_run_of_that_name_is_not_replaced(tmp_path: Path) -> None:
    """The folder names the run that it replicates; a folder of the user's own names none."""
    target = OfflineTarget(tmp_path / "offline", TargetOptions())
    info = RunInfo("r1", "p", started_ms=1_700_000_000_000)
    own = tmp_path / "offline" / "offline-run-20231114_221320-r1"
    own.mkdir()
    twin = target.find(info)
    assert twin is not None
    assert twin.foreign
    with pytest.raises(TargetError, match="holds another run"):
        target.open(info, BACKFILL, twin)
    assert list(own.iterdir()) == []
