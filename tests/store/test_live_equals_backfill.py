"""The program of MLflow's API, mirrored while it runs and backfilled afterwards: one run in W&B."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.store.carried import RemoteOutcome, carry, points_in_wandb
from tests.store.played import Played, play
from tests.support.commands import mlflow_wandb
from tests.support.stores import copy_store
from tests.support.wandb_state import comparable, run_state
from tests.wandb_server import Run, WandbServer
from tests.wandb_server.clients import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ONLY_LIVE = ("journal", "lost", "traces_not_mirrored")
"""Keys of the config's section ``mlflow`` that say how far the journal was delivered, and what it
could not carry."""
ORDER_OF_WRITING = ("rows", "system")
"""The live mirror writes points in the order of the calls, a backfill by time: points, which are
compared, are in other rows."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Played:
    folder = tmp_path_factory.mktemp("both")
    (folder / "work").mkdir()
    uri = copy_store(empty_store, folder / "mlflow.db")
    output = play(folder, f"wandb+{uri}", by_variable=True)
    return Played(uri, folder, folder / "work" / "wandb" / "mlflow", output)


@pytest.fixture(scope="module")
def mirrored(played: Played) -> Iterator[RemoteOutcome]:
    with carry(played) as found:
        yield found


@pytest.fixture(scope="module")
def backfilled(played: Played, mirrored: RemoteOutcome) -> Iterator[WandbServer]:
    """Another W&B server, with the runs of the same MLflow store."""
    with WandbServer(played.folder / "backfilled-server") as server:
        env = os.environ | environment(server, played.folder / "second", {"WANDB_MODE": "online"})
        done = mlflow_wandb(
            "backfill", played.uri, "--to", f"wandb://{server.store.user.username}", "--json",
            env=env, cwd=played.folder / "work", timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        yield server
        assert not server.executor.unknown


def _state(run: Run) -> dict[str, Any]:
    state = run_state(run)
    section = state["config"].get("mlflow", {})
    kept = {key: section[key] for key in section if key not in ONLY_LIVE}
    # The live mirror leaves a null where a tag was taken away.
    tags = {key: value for key, value in kept.get("tags", {}).items() if value is not None}
    state["config"]["mlflow"] = kept | {"tags": tags}
    state["summary"] = {
        key: _media(value) if isinstance(value, dict) else value
        for key, value in state["summary"].items()
    }
    state["points"] = sorted(points_in_wandb(run).items())
    # MLflow keeps a table as it is at the end; the live mirror shows it each time that it grows.
    state["media"] = {
        (key, line.row.get("mlflow_step", 0)): comparable(_media(value))
        for line in run.history.live
        for key, value in line.row.items()
        if isinstance(value, dict)
    }
    state["files"] = {name for name in state["files"] if not name.startswith("media/")}
    return {key: value for key, value in state.items() if key not in ORDER_OF_WRITING}


def _media(value: dict[str, Any]) -> dict[str, Any]:
    """A media value without its path, which has the number of its row."""
    return {key: value[key] for key in value if key in ("_type", "sha256", "size", "ncols")}


def test_live_and_backfilled_runs_are_equal(
    mirrored: RemoteOutcome, backfilled: WandbServer
) -> None:
    """Name, notes, tags, group, state, config, summary, points, media, files, artifacts, lineage;
    a deleted run is not backfilled."""
    live = {run.name: run for run in mirrored.wandb.runs}
    later = {run.name: run for run in backfilled.runs}
    deleted = {run.info.run_id for run in mirrored.runs if run.info.lifecycle_stage == "deleted"}
    assert later.keys() == live.keys() - deleted
    differing = [
        (run_id, field, first[field], second[field])
        for run_id in later
        for first, second in [(_state(live[run_id]), _state(later[run_id]))]
        for field in first
        if comparable(first[field]) != comparable(second[field])
    ]
    for line in differing:
        print(*line, sep="\n  ", file=sys.stderr)
    assert differing == []
