"""The plugin in examples/plugin, installed as a user installs one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_command, run_script
from tests.support.stores import copy_store

EXAMPLE = Path(__file__).parents[1] / "examples" / "plugin"
SCRIPT = """
import wandb
from mlflow_wandb_plugin import autolog

autolog()
for name, tags in {"kept": ["good"], "left": ["scratch"]}.items():
    run = wandb.init(project="rules", id=name, tags=tags)
    run.define_metric("loss", summary="min")
    for step in range(20):
        run.log({"loss": 1 / (step + 1), "accuracy": step / 20, "debug/noise": step * 3.0,
                 "train/loss": 7.0, "other": step})
    run.summary["accuracy"] = 0.99
    run.finish()
"""


@pytest.fixture
def installed(env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """An environment in which the plugin is installed: its module and its entry point."""
    package = tmp_path / "site" / "my_wandb_rules-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: my-wandb-rules\nVersion: 1.0\n")
    declared = (EXAMPLE / "pyproject.toml").read_text()
    assert '[project.entry-points.mlflow_wandb_plugin]\nmy_rules = "my_wandb_rules"\n' in declared
    (package / "entry_points.txt").write_text("[mlflow_wandb_plugin]\nmy_rules = my_wandb_rules\n")
    paths = [str(tmp_path / "site"), str(EXAMPLE), os.environ.get("PYTHONPATH", "")]
    return env | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def command(env: dict[str, str], cwd: Path, *arguments: str) -> str:
    program = [sys.executable, "-m", "mlflow_wandb_plugin.cli", *arguments]
    return run_command(program, env, cwd).stdout


def check_kept(run: RunState) -> None:
    """The run that was logged, by the rules."""
    steps = range(20)
    assert run.points("train/loss") == [(step, 1 / (step + 1)) for step in steps]
    # The key of that name comes second, and gets another one.
    [renamed] = [name for name in run.metrics if name.startswith("train/loss-")]
    assert run.points(renamed) == [(step, 7.0) for step in steps]
    assert run.points("accuracy_percent") == [
        *((step, step / 20 * 100) for step in steps), (19, 99.0)
    ]  # fmt: skip
    assert run.points("other") == [(step, step) for step in steps]
    named = set(run.metrics) - {renamed}
    assert not [name for name in named if "debug" in name or name in ("loss", "accuracy")]


def test_rules_hold_for_live_and_backfilled_runs(
    installed: dict[str, str], empty_store: Path, tmp_path: Path
) -> None:
    """Both write what the rules say, a run that is left out is in neither, and verify agrees."""
    done = run_script(SCRIPT, installed, tmp_path)
    assert "`mlflow-wandb sync" not in done.stderr
    live = read_runs(installed["MLFLOW_TRACKING_URI"])
    assert set(live) == {"kept"}
    check_kept(live["kept"])
    wandb_dir = tmp_path / "work" / "wandb"
    assert not list((wandb_dir / "mlflow").glob("*.journal"))
    source = ("backfill", str(wandb_dir), "--json")
    again = json.loads(command(installed, tmp_path, *source))
    assert [run["action"] for run in again["runs"]] == ["skipped"]

    other = copy_store(empty_store, tmp_path / "other.db")
    to = (*source, "--to", other, "--dual-written", "ignore")
    report = json.loads(command(installed, tmp_path, *to))
    assert [run["run_id"] for run in report["runs"]] == ["kept"]
    backfilled = read_runs(other)
    check_kept(backfilled["kept"])
    assert backfilled["kept"].metrics == live["kept"].metrics
    command(installed, tmp_path, "verify", str(wandb_dir), "--to", other)
    command(installed, tmp_path, "verify", str(wandb_dir))


def test_runs_are_read_by_the_plugins_source(installed: dict[str, str], tmp_path: Path) -> None:
    """Each CSV file is a run, and the rules hold for it, too."""
    folder = tmp_path / "measurements"
    folder.mkdir()
    for number in (1, 2):
        lines = [f"{step},{1_700_000_000_000 + step},{step / number}" for step in range(5)]
        (folder / f"run{number}.csv").write_text("\n".join(["step,time,accuracy", *lines]))
    command(installed, tmp_path, "backfill", f"csv:{folder}")
    runs = read_runs(installed["MLFLOW_TRACKING_URI"])
    for number in (1, 2):
        assert runs[f"run{number}"].metrics == {
            "accuracy_percent": [
                (step / number * 100, 1_700_000_000_000 + step, step) for step in range(5)
            ]
        }
    assert "my_rules" in command(installed, tmp_path, "plugins")
