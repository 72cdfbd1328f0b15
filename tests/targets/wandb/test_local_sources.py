"""Local logs, and an archive of them, written to a W&B server: as `wandb sync` writes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_wandb_plugin.backfill.execution import backfill_runs
from tests.support.environment import isolated
from tests.support.processes import run_script
from tests.support.wandb_state import differing, project_of, project_state
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROGRAM = """
import math
import numpy as np, wandb
for number in range(2):
    with wandb.init(project="local", id=f"r{number}", name=f"name {number}", notes="a note",
                    tags=["t"], group="g", job_type="train",
                    config={"lr": 0.5, "nested": {"a": [1, 2.5], "b": None}}) as run:
        run.define_metric("val/*", step_metric="epoch")
        for step in range(30):
            run.log({"loss": 1 / (step + 1), "val/acc": step / 30, "epoch": step // 3,
                     "n": {"x": math.nan if step == 3 else step}, "text": f"row {step}"},
                    step=2 * step)
        run.log({"image": wandb.Image(np.zeros((4, 4, 3), dtype="uint8"))})
        run.summary["best"] = 0.25
        made = wandb.Artifact("weights", "model", metadata={"n": number})
        with made.new_file("w.bin", mode="wb") as file:
            file.write(bytes([number]) * 100)
        run.log_artifact(made, aliases=[f"of{number}"])
    assert not wandb.run
"""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wandb folder with two offline runs."""
    folder = tmp_path_factory.mktemp("logs")
    run_script(PROGRAM, isolated(folder, WANDB_CONSOLE="off"), folder)
    return folder / "work" / "wandb"


@pytest.fixture(scope="module")
def synced(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """A server to which wandb itself has synced the folder."""
    folder = tmp_path_factory.mktemp("synced")
    with WandbServer(folder / "server") as server:
        names = sorted(str(path) for path in logs.glob("offline-run-*"))
        assert len(names) == 2
        env = isolated(folder) | server.env(folder / "client")
        for name in names:
            # One after the other: several at once number the versions of an artifact by chance.
            command = [sys.executable, "-m", "wandb", "sync", name]
            subprocess.run(command, env=env, cwd=folder, check=True)
        yield server


@pytest.mark.parametrize("by_archive", [False, True], ids=["folder", "archive"])
def test_a_folder_arrives_as_wandb_sync_brings_it(
    logs: Path,
    synced: WandbServer,
    by_archive: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows, config, summary, files, artifacts: also by way of an archive."""
    source = str(logs)
    if by_archive:
        source = f"archive:{tmp_path}/archive"
        backfill_runs(str(logs), source)
    with WandbServer(tmp_path / "server") as server:
        monkeypatch.setenv("MLFLOW_WANDB_TARGET_API_KEY", server.api_key)
        outcomes = backfill_runs(source, f"wandb+{server.url}/tester/local")
        assert [outcome.action for outcome in outcomes] == ["migrated"] * 2
        wanted = project_state(project_of(synced, "tester", "local"))
        found = project_state(project_of(server, "tester", "local"))
        assert differing(found, wanted) == []
