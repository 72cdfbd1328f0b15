"""Run the program of MLflow's API on one store."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

from tests.store.state import pointing_at, read_state
from tests.support.environment import isolated
from tests.support.outboxes import no_replicator
from tests.support.processes import started

PROGRAM = Path(__file__).with_name("program.py")


@dataclass
class Played:
    """The program, played on one store.

    Attributes:
        uri: where its MLflow can be read, without ``wandb+``.
        outbox: where the journals of whoever mirrored are.
    """

    uri: str
    folder: Path
    outbox: Path
    output: str

    def state(self) -> dict[str, Any]:
        downloads = self.folder / "downloads"
        shutil.rmtree(downloads, ignore_errors=True)
        with pointing_at(self.uri, self.folder / "work"):
            return read_state(self.uri, downloads)


def play(folder: Path, uri: str, by_variable: bool = False) -> str:
    """Run the program with MLflow at ``uri``; returns what it printed."""
    env = isolated(folder, MLFLOW_TRACKING_URI=uri if by_variable else "sqlite:///unused.db")
    work = folder / "work"
    arguments = [] if by_variable else [uri]
    with (
        no_replicator(work / "wandb" / "mlflow"),
        started([sys.executable, str(PROGRAM), *arguments], env, work) as process,
    ):
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert not (work / "unused.db").exists()
    return out + err


def runs_of(client: MlflowClient) -> list[Any]:
    """All runs of all experiments, deleted ones, too."""
    experiments = client.search_experiments(view_type=ViewType.ALL)
    return [
        client.get_run(run.info.run_id)
        for experiment in experiments
        for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    ]
