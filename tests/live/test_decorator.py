"""The settings and the exit code of a run that `dual_write` opens."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script

pytestmark = pytest.mark.usefixtures("patient")

SETTINGS = """
import mlflow_wandb_plugin, wandb
from mlflow_wandb_plugin import dual_write
mlflow_wandb_plugin.autolog(experiment="of autolog")

@dual_write(project="p", id="kept")
def kept():
    wandb.log({"m": 1})

@dual_write(project="p", id="overridden", experiment="of dual_write")
def overridden():
    wandb.log({"m": 1})

overridden()
kept()
"""


def test_settings_that_were_given_earlier_stay(env: dict[str, str], tmp_path: Path) -> None:
    """The decorator's own arguments count for its runs alone."""
    run_script(SETTINGS, env, tmp_path / "work")
    client = MlflowClient(env["MLFLOW_TRACKING_URI"])
    names = {one.experiment_id: one.name for one in client.search_experiments()}
    found = {
        run.data.tags["wandb.run_id"]: names[run.info.experiment_id]
        for run in client.search_runs(list(names))
    }
    assert found == {"kept": "of autolog", "overridden": "of dual_write"}


EXITS = """
import sys
import wandb
from mlflow_wandb_plugin import dual_write

for name, code in (("three", 3), ("text", "gone wrong"), ("zero", 0), ("none", None)):
    @dual_write(project="p", id=name)
    def train():
        sys.exit(code)
    try:
        train()
    except SystemExit as error:
        assert error.code == code
"""


def test_a_run_that_exits_has_the_exit_code(env: dict[str, str], tmp_path: Path) -> None:
    """As Python ends the process: a number is the code, a text is a failure."""
    run_script(EXITS, env, tmp_path / "work")
    found = {
        name: (run.status, run.tags["wandb.exit_code"])
        for name, run in read_runs(env["MLFLOW_TRACKING_URI"]).items()
    }
    assert found == {
        "three": ("FAILED", "3"), "text": ("FAILED", "1"),
        "zero": ("FINISHED", "0"), "none": ("FINISHED", "0"),
    }  # fmt: skip
