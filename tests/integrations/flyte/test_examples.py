"""The examples run with `flyte run --local`, as their texts and docs/flyte.md say."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.integrations.flyte.logged_runs import ROOT
from tests.support.documents import blocks
from tests.support.mlflow_state import read_runs
from tests.support.processes import started
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

pytestmark = pytest.mark.slow


def test_the_sweep_example_runs_its_trials(tmp_path: Path, empty_store: Path) -> None:
    """Two trials, in W&B's sweep and below one run in MLflow."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
    with WandbServer(tmp_path / "server") as server:
        env.update(server.env(tmp_path / "client"))
        env["MLFLOW_TRACKING_URI"] = copy_store(empty_store, tmp_path / "mlflow.db")
        env["PYTHONPATH"] = f"{ROOT}:{ROOT / 'integrations'}"
        command = [
            str(Path(sys.executable).parent / "flyte"), "run", "--local",
            "flyte_sweep.py", "search", "--trials", "2",
        ]  # fmt: skip
        shutil.copy(ROOT / "examples" / "flyte_sweep.py", tmp_path / "client")
        with started(command, env, tmp_path / "client") as process:
            out, err = process.communicate(timeout=180)
        assert process.returncode == 0, out + err
        (sweep,) = server.project("flyte-example").sweeps.values()
        trials = {run.name for run in sweep.runs}
        assert len(trials) == 2
    runs = read_runs(env["MLFLOW_TRACKING_URI"])
    (parent,) = [run for run in runs.values() if "wandb.sweep" in run.tags]
    assert {runs[trial].tags["mlflow.parentRunId"] for trial in trials} == {parent.run_id}


def test_container_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The page's module for a cluster can be imported as it stands; its task has both links."""
    (code,) = [block.code for block in blocks() if "from_debian_base" in block.code]
    pytest.importorskip("flyteplugins.pytorch", reason="flyteplugins-pytorch is not installed")
    (tmp_path / "cluster_module.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("cluster_module")
    assert module.env.tasks["train.train"] is module.train
    assert [link.name for link in module.train.links] == ["Weights & Biases", "MLflow"]
