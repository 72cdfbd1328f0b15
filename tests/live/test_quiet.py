"""What is printed when wandb is told to be silent or quiet, and of what is late."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_wandb_plugin.live.run_tap import _what_is_late
from tests.support.mlflow_state import read_runs
from tests.support.processes import free_port, run_script

SCRIPT = """
import mlflow_wandb_plugin.wandb as wandb
with wandb.init(project="p", id="r1", settings=wandb.Settings(SETTINGS)) as run:
    run.log({"m": 1})
"""


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("variable", "setting"), [("WANDB_QUIET", ""), ("", "quiet=True"), ("", "silent=True")]
)
def test_nothing_is_printed_when_all_is_well(
    env: dict[str, str], tmp_path: Path, variable: str, setting: str
) -> None:
    """Neither the place of the MLflow run nor progress, by variable and by setting."""
    del env["WANDB_SILENT"]
    env |= {variable: "true"} if variable else {}
    done = run_script(SCRIPT.replace("SETTINGS", setting), env, tmp_path / "work")
    assert "mlflow run" not in (done.stdout + done.stderr).lower()
    assert "mlflow:" not in done.stderr
    assert read_runs(env["MLFLOW_TRACKING_URI"])["r1"].status == "FINISHED"


def test_a_failure_is_printed_when_wandb_is_silent(env: dict[str, str], tmp_path: Path) -> None:
    """MLflow does not answer, and a variable is malformed: both are said, and training goes on."""
    env |= {
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}",
        "MLFLOW_WANDB_LINGER": "0",
        "MLFLOW_WANDB_FINISH_TIMEOUT": "soon",
        "MLFLOW_WANDB_INIT_TIMEOUT": "60",
    }
    done = run_script(SCRIPT.replace("SETTINGS", ""), env, tmp_path / "work")
    assert "cannot be reached" in done.stderr
    assert "MLFLOW_WANDB_FINISH_TIMEOUT must be a float: not 'soon'. The default" in done.stderr


def test_a_helper_that_still_starts_is_not_taken_for_a_slow_mlflow() -> None:
    """MLflow is named only once it has been asked."""
    assert "still starting" in _what_is_late({}, "answered")
    assert "still starting" in _what_is_late({"pid": 7}, "answered")
    assert _what_is_late({"state": "asking"}, "answered") == "MLflow has not answered yet"
