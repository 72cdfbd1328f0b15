"""The scripts of examples/ run as their page says, and leave what they promise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES, environment, finished, run_example

PAGE = (EXAMPLES / "README.md").read_text(encoding="utf-8")


def cells_of_notebook() -> str:
    """The code of the notebook's cells as one script."""
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    return "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize(
    ("command", "losses"),
    [
        ("python examples/plain.py", {"plain": 50}),
        ("mlflow-wandb run -- python examples/zero_change.py", {"zero-change": 10}),
    ],
)
def test_a_run_in_both_homes(
    command: str, losses: dict[str, int], tmp_path: Path, empty_store: Path
) -> None:
    """One complete replica that has each point."""
    assert command in PAGE
    _, runs = run_example(command, environment(tmp_path, empty_store))
    assert finished(runs) == losses


def test_decorator(tmp_path: Path, empty_store: Path) -> None:
    """Each call of the function is a run, in one group."""
    command = "python examples/decorator.py"
    assert command in PAGE
    done, runs = run_example(command, environment(tmp_path, empty_store))
    assert list(finished(runs).values()) == [20, 20]
    assert {run.params["learning_rate"] for run in runs.values()} == {"0.1", "0.3"}
    assert {run.tags["run_group"] for run in runs.values()} == {"decorator"}
    assert "learning rate 0.3: loss 0.00000" in done.stdout


def test_mlflow_store(tmp_path: Path, empty_store: Path) -> None:
    """MLflow has the run, and W&B a folder for `wandb sync`, when the script has ended."""
    command = "python examples/mlflow_store.py"
    assert command in PAGE
    env = environment(tmp_path, empty_store)
    _, runs = run_example(command, env)
    (run,) = runs.values()
    assert (run.name, run.status, len(run.metrics["loss"])) == ("mlflow-store", "FINISHED", 20)
    (log,) = Path(env["WANDB_DIR"]).glob("wandb/offline-run-*/*.wandb")
    assert run.run_id in log.name


def test_backfill(tmp_path: Path, empty_store: Path) -> None:
    """The first backfill migrates both runs, the second skips them, and verify finds them equal."""
    command = "python examples/backfill.py"
    assert command in PAGE
    done, runs = run_example(command, environment(tmp_path, empty_store))
    assert list(finished(runs).values()) == [20, 20]
    for said in ("first: .* migrated", "second: .* skipped", ".*: equal"):
        assert len(re.findall(f"^{said}", done.stdout, re.M)) == 2, done.stdout


@pytest.mark.slow
def test_migration(tmp_path: Path, empty_store: Path) -> None:
    """All five runs are in MLflow once, and W&B has those that were logged to it."""
    command = "bash examples/migration.sh"
    assert command in PAGE
    env = environment(tmp_path, empty_store)
    done, runs = run_example(command, env)
    assert finished(runs) == dict.fromkeys(("ana-1", "ana-2", "ben-1", "ben-2", "ben-3"), 20)
    origins = {run.name: run.tags["mlflow.wandb.origin"] for run in runs.values()}
    assert origins == {
        "ana-1": "backfill", "ben-1": "backfill", "ana-2": "dual", "ben-2": "dual", "ben-3": "dual"
    }  # fmt: skip
    assert "2 migrated, 1 skipped as dual-written" in done.stdout
    assert "the target has all of 3 runs: the source may be deleted" in done.stdout


def test_cells_of_the_notebook(tmp_path: Path, empty_store: Path) -> None:
    """Run as a script; `make test-frameworks` runs them in a kernel."""
    env = environment(tmp_path, empty_store)
    script = Path(env["WANDB_DIR"]) / "notebook.py"
    script.write_text(cells_of_notebook())
    _, runs = run_example(f"python {script}", env)
    assert finished(runs) == {"notebook": 20}


def test_page_has_every_example_and_each_is_short() -> None:
    """A row each; no script has more than 60 lines."""
    listed = set(re.findall(r"^\| \[(.*?)\]\((.*?)\) \|", PAGE, re.M))
    there = [path for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__")]
    assert {target.partition("/")[0] for _, target in listed} == {path.name for path in there}
    for path in there:
        if path.is_file():
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, path.name
