"""Processes that log into one run keep their logs in folders of their own."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from tests.support.mlflow_state import read_runs
from tests.support.processes import started, wait_until

SHARES = """
import sys
import mlflow_wandb_plugin
import wandb

mlflow_wandb_plugin.autolog(init_timeout=90, finish_timeout=200)
label = sys.argv[1]
key = label.rpartition("/")[2]
primary = key == "one"
settings = wandb.Settings(x_label=label, x_primary=primary, x_update_finish_state=primary)
with wandb.init(project="shared", id="both", settings=settings) as run:
    for step in range(5):
        run.log({key: step})
"""


def test_rows_of_processes_that_begin_at_once_are_all_kept(
    env: dict[str, str], tmp_path: Path
) -> None:
    """wandb looks for a folder of the same second and id; two processes may look at one time. So a
    folder is named after its process's label: after its end, where wandb's own labels differ."""
    node = "n" * 80
    work = tmp_path / "work"
    script = work / "shares.py"
    script.write_text(SHARES)
    with ExitStack() as stack:
        running = [
            stack.enter_context(started([sys.executable, str(script), label], env, work))
            for label in (f"{node}/one", f"{node}/two")
        ]
        for process in running:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
    names = {folder.name for folder in Path(env["WANDB_DIR"], "wandb").glob("offline-run-*")}
    ends = [f"-both-{node[:60]}_one", f"-both-{node[:60]}_two"]
    assert sorted(name[-len(ends[0]) :] for name in names) == ends
    values = [(step, float(step)) for step in range(5)]

    def arrived() -> bool:
        state = read_runs(env["MLFLOW_TRACKING_URI"])["both"]
        return [state.points("one"), state.points("two")] == [values, values]

    wait_until(arrived, 120, "both processes' rows are in MLflow")
