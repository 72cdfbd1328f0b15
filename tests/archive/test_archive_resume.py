"""An interrupted archive is resumed where it was, without duplicates or incomplete parts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from mlflow_wandb_plugin import backfill
from mlflow_wandb_plugin.archive.run_document import run_folder
from mlflow_wandb_plugin.archive.target import (
    ArchiveTarget,
    open_archive,
)
from mlflow_wandb_plugin.core.identity import verdict
from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    Item,
    RunInfo,
    Series,
)
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.errors import TargetError
from tests.support.archives import (
    MadeSource,
    archive_made,
    contents,
    items_of,
    points_of,
)
from tests.support.mlflow_state import read_runs

KILLED = r"""
import os, signal, sys
from pathlib import Path
from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.archive.target import ArchiveTarget
from mlflow_wandb_plugin.core.model import Selection
from tests.support.archives import MadeSource

target, files, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

def count_down(event, arguments):
    "kill -9 at the n-th time that a file of the archive is opened, renamed or removed"
    global left
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and target in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

source = MadeSource(Path(files), blocks=12)
sys.addaudithook(count_down)
list(backfill(source, ArchiveTarget(Path(target)), Selection()))
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_equals_an_undisturbed_one(
    tmp_path: Path, env: dict[str, str]
) -> None:
    """kill -9, time and again: the same points once, the same rows and files, no leftovers."""
    target, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    archive_made(undisturbed, tmp_path / "files", blocks=12)
    (tmp_path / "script.py").write_text(KILLED)
    command = [sys.executable, "script.py", str(target), str(tmp_path / "files")]
    root = Path(__file__).parents[2]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), env.get("PYTHONPATH", "")]))
    run_file = run_folder(target, RunInfo("made", "Project", "team")) / "run.json"
    dice = random.Random(4)
    kills = 0
    for _ in range(30):
        again = [*command, str(dice.randint(1, 30))]
        done = subprocess.run(again, env=env, cwd=tmp_path, capture_output=True, timeout=120)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        if run_file.exists():
            assert json.loads(run_file.read_text())["state"] == "live"
    assert kills >= 6
    [outcome] = archive_made(target, tmp_path / "files", blocks=12)
    assert outcome.action in ("repaired", "skipped")
    killed, calm = (open_archive(f"archive:{path}") for path in (target, undisturbed))
    assert items_of(killed) == items_of(calm)
    assert points_of(target) == points_of(undisturbed)
    changing = {"run.json", "files.json", "rows.jsonl"}
    left = {path for path in contents(target) if not path.endswith(".parquet")}
    assert left == {path for path in contents(undisturbed) if not path.endswith(".parquet")}
    for path in left:
        if Path(path).name not in changing:
            assert contents(target)[path] == contents(undisturbed)[path], path


def test_an_interrupted_run_is_resumed_and_not_complete(tmp_path: Path, fresh_store: str) -> None:
    """An archive that was stopped half-way is a partial run; its source is asked for the rest."""
    made = MadeSource(tmp_path / "files", blocks=4)
    target = ArchiveTarget(tmp_path / "archive")
    writer = target.open(made.info, "backfill")
    for number, item in enumerate(made.read(made.info, {})):
        if isinstance(item, Checkpoint):
            writer.checkpoint(item)
        elif isinstance(item, Series):
            writer.append(item)
        if number > 130:
            break
    writer.close()
    found = target.find(made.info)
    assert verdict(made.info, found) == "partial"
    [outcome] = backfill(f"archive:{tmp_path / 'archive'}", fresh_store)
    assert (outcome.action, outcome.run.missing) == ("migrated", True)
    assert read_runs(fresh_store)["made"].tags["mlflow.wandb.state"] == "partial"

    made.sent = 0
    assert found is not None
    again = target.open(made.info, "backfill", found)
    carried = replicate(made.read(made.info, again.position), again)
    again.close()
    assert 0 < made.sent < made.blocks
    assert carried.info is not None
    [outcome] = backfill(f"archive:{tmp_path / 'archive'}", fresh_store)
    assert (outcome.action, outcome.verdict) == ("repaired", "partial")
    run = read_runs(fresh_store)["made"]
    assert run.tags["mlflow.wandb.state"] == "complete"
    assert run.points("loss") == [(step, float(step)) for step in range(made.blocks * made.rows)]


def test_a_run_that_grew_is_topped_up(tmp_path: Path) -> None:
    """A running run is archived as far as it is; the next pass adds what is new."""
    target = ArchiveTarget(tmp_path / "archive")
    info = RunInfo("grows", "p", "e", segments=("log",), started_ms=1)
    for rows, state in ((10, "running"), (25, "finished")):
        found = target.find(info)
        writer = target.open(info, "backfill", found)
        assert writer.position == ({} if rows == 10 else {"log": 10})
        steps = range(rows)
        items: list[Item] = [
            Series(("loss",), steps, steps, [float(step) for step in steps]),
            Checkpoint("log", rows),
            replace(info, state=state, rows={"log": rows}),
        ]
        replicate(items, writer)
        writer.close()
    found = target.find(info)
    assert found is not None
    assert (found.state, found.position, found.rows) == ("complete", {"log": -1}, {"log": 25})
    frame = pd.read_parquet(run_folder(tmp_path / "archive", info) / "metrics")
    assert frame.step.tolist() == list(range(25))


def test_two_writers_of_one_run_do_not_mix(tmp_path: Path) -> None:
    """A run that another writer has open is refused, in one line; afterwards it is accepted."""
    target = ArchiveTarget(tmp_path)
    info = RunInfo("busy", "p", "e")
    writer = target.open(info, "backfill")
    with pytest.raises(TargetError, match="another process is writing"):
        target.open(info, "backfill")
    writer.close()
    target.open(info, "backfill").close()
