"""A run whose config has the name of the metric for MLflow's steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_wandb_plugin import backfill, verify
from tests.support.commands import wandb_folder
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script
from tests.support.stores import copy_store

SCRIPT = """
import mlflow_wandb_plugin.wandb as wandb

run = wandb.init(project="p", id="stepped", config={"mlflow_step_metric": "epoch", "lr": 0.1})
run.define_metric("*", step_metric="epoch", step_sync=True)
for loss, epoch in ((4.0, 10), (3.0, 20), (2.0, 30), (1.0, 20)):
    run.log({"loss": loss, "epoch": epoch})
run.log({"val": 0.5})
run.summary["best"] = 0.25
run.finish()
"""


@pytest.mark.usefixtures("patient")
def test_dual_written_and_backfilled_stand_at_the_same_steps(
    env: dict[str, str], tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric's values are the steps, a row that core completes included; no key is a param."""
    run_script(SCRIPT, env, tmp_path / "work")
    dual = read_runs(env["MLFLOW_TRACKING_URI"], tmp_path / "dual")["stepped"]
    assert sorted(dual.points("loss")) == [(10, 4.0), (20, 1.0), (20, 3.0), (30, 2.0)]
    assert (dual.points("val"), dual.points("best")) == ([(20, 0.5)], [(20, 0.25)])
    assert dual.params == {"lr": "0.1"}
    monkeypatch.chdir(tmp_path / "work")
    (compared,) = verify(str(wandb_folder(env)), env["MLFLOW_TRACKING_URI"])
    assert (compared.result, compared.differences) == ("equal", ())
    fresh = copy_store(empty_store, tmp_path / "fresh.db")
    monkeypatch.chdir(tmp_path)
    (outcome,) = backfill(str(wandb_folder(env)), fresh)
    assert outcome.action == "migrated"
    filled = read_runs(fresh, tmp_path / "filled")["stepped"]
    for part, wanted in dual.comparable().items():
        assert filled.comparable()[part] == wanted, part
