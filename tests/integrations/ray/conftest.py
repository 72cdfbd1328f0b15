"""A W&B server, an MLflow store, and programs that use a real Ray."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_command
from tests.support.stores import copy_store
from tests.wandb_server import Run, WandbServer

PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).resolve().parents[3]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray is an extra: without it there is nothing to test here."""
    if find_spec("ray") is None:
        skip = pytest.mark.skip(reason="ray not installed: pip install '.[ray]'")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@dataclass
class Left:
    """What a program left: its own account, and both homes."""

    said: Any
    output: str
    work: Path
    server: WandbServer
    uri: str
    read: Path
    _runs: dict[str, RunState] = field(default_factory=dict)

    def wandb(self, project: str) -> list[Run]:
        return [run for run in self.server.runs if run.project.name == project]

    def only(self, project: str) -> tuple[Run, RunState]:
        """The one run of a project, and its one replica."""
        (run,) = self.wandb(project)
        return run, self.mlflow[run.name]

    @property
    def mlflow(self) -> dict[str, RunState]:
        """Runs of MLflow by W&B id, else by their own: one replica a run, or this fails."""
        if not self._runs:
            self._runs = read_runs(self.uri, self.read)
        return self._runs

    def told(self, name: str) -> list[dict[str, Any]]:
        from tests.integrations.ray.programs.cluster import told

        return told(self.work / f"{name}.told")


def rows_of(run: Run) -> list[dict[str, Any]]:
    """What was logged to W&B, without what W&B adds."""
    return [
        {key: value for key, value in line.row.items() if not key.startswith("_")}
        for line in run.history.live
    ]


def assert_same_points(run: Run, twin: RunState, step_key: str = "_step") -> None:
    """Every number of every row, at the row's time and its value of ``step_key``, which itself is
    at W&B's step; no more in MLflow."""
    wanted: dict[str, list[tuple[float, int, int]]] = {}
    for line in run.history.live:
        row = line.row
        for key, value in row.items():
            if not key.startswith("_"):
                step = row["_step" if key == step_key else step_key]
                point = (float(value), int(row["_timestamp"] * 1000), int(step))
                wanted.setdefault(key, []).append(point)
    found = {key: points for key, points in twin.metrics.items() if not key.startswith("system/")}
    assert {key: sorted(points) for key, points in found.items()} == {
        key: sorted(points) for key, points in wanted.items()
    }


@pytest.fixture(scope="module")
def wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbServer]:
    """A loopback W&B, shared by a module: each scenario has a project of its own."""
    with WandbServer(tmp_path_factory.mktemp("wandb")) as running:
        yield running
        assert not running.executor.unknown, "fields that the server does not know"


@pytest.fixture(scope="module")
def program(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, wandb: WandbServer
) -> Callable[..., Left]:
    """Runs a program of ``programs/``; the last line of its output is JSON."""

    def run(name: str, *arguments: str, timeout: float = 280, **environ: str) -> Left:
        folder = tmp_path_factory.mktemp(name)
        uri = copy_store(empty_store, folder / "mlflow.db")
        work = folder / "work"
        work.mkdir(exist_ok=True)
        env = ray_environment(folder, wandb) | environ
        done = run_command(
            [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments], env, work, timeout
        )
        said = json.loads(done.stdout.splitlines()[-1])
        return Left(said, done.stdout + done.stderr, work, wandb, uri, folder / "read")

    return run


def ray_environment(folder: Path, wandb: WandbServer) -> dict[str, str]:
    """Variables of a program that uses Ray and writes to both homes, all of it in ``folder``."""
    env = isolated(
        folder, MLFLOW_WANDB_INIT_TIMEOUT="90", MLFLOW_WANDB_FINISH_TIMEOUT="120"
    ) | wandb.env(folder / "client")
    # Unix sockets have short names: Ray's go below /tmp.
    for name in ("WANDB_MODE", "WANDB_DIR", "TMPDIR", "PYTHONWARNINGS"):
        env.pop(name, None)
    path = [str(ROOT), str(ROOT / "integrations"), os.environ.get("PYTHONPATH", "")]
    return env | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
