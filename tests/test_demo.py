"""What ``make demo`` runs, in the test's environment instead of one of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.documents import ROOT
from tests.support.mlflow_state import read_runs

DEMO = ROOT / "examples" / "demo" / "demo.py"


def demo(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), str(folder)],
        env=env, text=True, capture_output=True, timeout=240,
    )  # fmt: skip


def test_demo_leaves_both_runs_in_mlflow_and_can_be_repeated(
    env: dict[str, str], tmp_path: Path
) -> None:
    """History is migrated, the dual-written run is skipped, and MLflow has both models' accuracy;
    a second demo starts afresh."""
    folder = tmp_path / "demo"
    first = demo(folder, env)
    assert first.returncode == 0, first.stdout + first.stderr
    second = demo(folder, env)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "1 migrated, 1 skipped as dual-written" in second.stdout
    look = f"mlflow-wandb ui --to sqlite:///{folder / 'mlflow.db'}"
    assert second.stdout.count(look) == 2
    printed = dict(re.findall(r"^(\w+): accuracy on unseen data ([\d.]+)$", second.stdout, re.M))
    runs = {run.name: run for run in read_runs(f"sqlite:///{folder / 'mlflow.db'}").values()}
    assert set(runs) == set(printed) == {"before", "after"}
    for name, run in runs.items():
        assert f"{run.latest['val/accuracy']:.3f}" == printed[name]
        assert float(printed[name]) > 0.9
        assert len(run.metrics["train/loss"]) == 800
        assert run.status == "FINISHED"
    assert runs["before"].tags["mlflow.wandb.origin"] == "backfill"
    assert runs["after"].tags["mlflow.wandb.origin"] == "dual"


def test_demo_empties_no_folder_but_its_own(env: dict[str, str], tmp_path: Path) -> None:
    """A folder with somebody's files in it is left as it is."""
    kept = tmp_path / "mine" / "thesis.tex"
    kept.parent.mkdir()
    kept.write_text("work")
    refused = demo(kept.parent, env)
    assert refused.returncode == 1
    assert kept.read_text() == "work"
