"""The examples that need other libraries run as their page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES, environment, finished, run_example

pytestmark = pytest.mark.frameworks


def test_pytorch(tmp_path: Path, empty_store: Path) -> None:
    """A loss for each epoch, histograms of gradients, and the model."""
    env = environment(tmp_path, empty_store)
    _, runs = run_example("python examples/pytorch.py", env)
    assert finished(runs) == {"pytorch": 5}
    (run,) = runs.values()
    assert {"accuracy", "epoch"} <= set(run.metrics)
    assert run.params["hidden"] == "16"


def test_hf_trainer(tmp_path: Path, empty_store: Path) -> None:
    """Two epochs of four batches: a loss for each, at the Trainer's step."""
    env = environment(tmp_path, empty_store) | {"HF_HUB_OFFLINE": "1"}
    _, runs = run_example("python examples/hf_trainer.py", env)
    (run,) = runs.values()
    assert (run.name, run.status) == ("hf-trainer", "FINISHED")
    assert [step for step, _ in run.points("train/loss")] == list(range(1, 9))


def test_notebook(tmp_path: Path, empty_store: Path) -> None:
    """All cells run in a kernel of their own."""
    env = environment(tmp_path, empty_store)
    script = Path(env["WANDB_DIR"]) / "run_notebook.py"
    script.write_text(
        "import nbformat\n"
        "from nbclient import NotebookClient\n"
        f"notebook = nbformat.read({str(EXAMPLES / 'notebook.ipynb')!r}, as_version=4)\n"
        "NotebookClient(notebook, timeout=300, kernel_name='python3').execute()\n"
    )
    _, runs = run_example(f"python {script}", env)
    assert finished(runs) == {"notebook": 20}
