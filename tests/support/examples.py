"""Examples, run as their page says, in a user's folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mlflow_wandb_plugin.core.identity import STATE
from tests.support.documents import ROOT
from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_command
from tests.support.stores import copy_store

EXAMPLES = ROOT / "examples"
LONGEST_S = 400
"""A machine under load takes several times the minute that the page promises."""


def environment(folder: Path, empty_store: Path) -> dict[str, str]:
    """Variables for an example whose every file lies below ``folder``."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return isolated(
        folder,
        MLFLOW_TRACKING_URI=copy_store(empty_store, folder / "mlflow.db"),
        MLFLOW_WANDB_FINISH_TIMEOUT="180",
        MLFLOW_WANDB_MIRROR_WAIT="180",
        PATH=tools,
    )


def run_example(
    command: str, env: Mapping[str, str]
) -> tuple[subprocess.CompletedProcess[str], dict[str, RunState]]:
    """Run a command of examples/README.md; its output, and the runs that it left in MLflow."""
    words = [word.replace("examples/", f"{EXAMPLES}/") for word in command.split()]
    done = run_command(words, env, Path(env["WANDB_DIR"]), timeout=LONGEST_S)
    return done, read_runs(env["MLFLOW_TRACKING_URI"])


def finished(runs: Mapping[str, RunState]) -> dict[str, int]:
    """How many points of the loss the complete, finished replicas have, by name.

    Raises:
        AssertionError: two have one name.
    """
    whole = [
        (run.name, len(run.metrics.get("loss", ())))
        for run in runs.values()
        if run.status == "FINISHED" and run.tags.get(STATE) == "complete"
    ]
    assert len(dict(whole)) == len(whole), whole
    return dict(whole)
