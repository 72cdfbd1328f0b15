"""One script through the installed wandb and mlflow: dual-written and backfilled must be equal.

``python -m scripts.version_check FOLDER`` from the checkout; `test_versions.py` runs it once for
each pair of versions. Needs the package, numpy and Pillow; no account, no network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import run_script

PROGRAM = """
import pathlib
import numpy as np
from PIL import Image
import mlflow_wandb_plugin.wandb as wandb

run = wandb.init(
    project="versions", name="all of it", notes="a note", tags=["first", "second"], group="g",
    job_type="train", config={"lr": 0.1, "net": {"depth": 3, "sizes": [8, 16]}, "name": "mlp"},
)
run.define_metric("loss", summary="min,max")
run.define_metric("epoch")
run.define_metric("val/*", step_metric="epoch", step_sync=True)

run.log({"loss": 3.0, "train": {"deep": {"acc": 0.25}}, "ok": True})
run.log({"loss": 2.0}, commit=False)
run.log({"lr": np.float32(0.1), "text": "half way"}, commit=False)
run.log({"acc": np.float64(0.5)})
run.log({"loss": float("nan"), "epoch": 1}, step=7)
run.log({"late": 1}, step=7)
run.log({"dropped": 1}, step=3)
run.log({"val/loss": float("inf"), "low": float("-inf")})
run.log({})
run.log({"weights": np.linspace(0.0, 1.0, 1000), "recall@5": 0.75, "none": None, "list": [1, 2]})

pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
run.log({
    "media/image": wandb.Image(Image.fromarray(pixels), caption="pixels"),
    "table": wandb.Table(columns=["x", "y"], data=[[1, "a"], [2, "b"]]),
    "page": wandb.Html("<b>bold</b>"),
    "hist": wandb.Histogram([1, 2, 2, 3]),
})

weights = pathlib.Path("weights.txt")
weights.write_text("1 2 3")
artifact = wandb.Artifact("model", type="model", metadata={"layers": 3})
artifact.add_file(str(weights))
run.log_artifact(artifact, aliases=["best"])

run.config.update({"added": 1})
run.config.update({"lr": 0.2}, allow_val_change=True)
run.summary["answer"] = 42
run.finish()
"""


def main(folder: Path) -> list[str]:
    """Run the check below ``folder``; return what is wrong."""
    env = isolated(folder, MLFLOW_WANDB_INIT_TIMEOUT="120", MLFLOW_WANDB_FINISH_TIMEOUT="240")
    run_script(PROGRAM, env, folder, timeout=300)
    backfilled_uri = f"sqlite:///{folder / 'backfilled.db'}"
    command = [
        str(Path(sys.executable).with_name("mlflow-wandb")),
        *("backfill", str(folder / "work" / "wandb"), "--to", backfilled_uri, "--json"),
    ]
    done = subprocess.run(
        command, env=env, cwd=folder, text=True, stdout=subprocess.PIPE, timeout=300
    )
    if done.returncode:
        return [f"the backfill ended with {done.returncode}: {done.stdout}"]
    [report] = json.loads(done.stdout)["runs"]
    dual = _only_run(env["MLFLOW_TRACKING_URI"], folder / "dual")
    backfilled = _only_run(backfilled_uri, folder / "backfilled")
    problems = _differences("", dual.comparable(), backfilled.comparable())
    problems += [f"the backfill reports {name}" for name in ("losses", "damage") if report[name]]
    return problems + _expectations(dual)


def _only_run(uri: str, folder: Path) -> RunState:
    [state] = read_runs(uri, folder).values()
    return state


def _differences(where: str, dual: Any, backfilled: Any) -> list[str]:
    if isinstance(dual, dict) and isinstance(backfilled, dict):
        return [
            line
            for key in sorted({*dual, *backfilled})
            for line in _differences(f"{where}/{key}", dual.get(key), backfilled.get(key))
        ]
    if dual == backfilled:
        return []
    return [f"{where}: dual-written {dual!r}, backfilled {backfilled!r}"]


def _expectations(run: RunState) -> list[str]:
    """What the program logged, read off the run: equal replicas could both be wrong."""
    highest = sys.float_info.max
    wanted_points = {
        "loss": [(0, 3.0), (1, 2.0), (7, "nan")],
        "train.deep.acc": [(0, 0.25)],
        "ok": [(0, 1.0)],
        "lr": [(1, 0.10000000149011612)],
        "acc": [(1, 0.5)],
        "late": [(7, 1.0)],
        # `epoch`, its step metric, is 1 by then.
        "val/loss": [(1, highest)],
        "low": [(7, -highest)],
        "epoch": [(7, 1.0)],
        "recall_5": [(9, 0.75)],
        "loss.min": [(10, "nan")],
        "answer": [(10, 42.0)],
    }
    problems = []
    for key, wanted in wanted_points.items():
        found = run.points(key) if key in run.metrics else None
        if found != wanted:
            problems.append(f"{key} should be {wanted}: it is {found}")
    wanted_params = {"lr": "0.1", "net.depth": "3", "net.sizes": "[8, 16]", "added": "1"}
    for key, value in wanted_params.items():
        if run.params.get(key) != value:
            problems.append(f"param {key} should be {value}: it is {run.params.get(key)}")
    wanted_tags = {
        "mlflow.wandb.state": "complete",
        "mlflow.wandb.origin": "dual",
        "mlflow.wandb.losses": "{}",
        "wandb.tags": '["first", "second"]',
        "mlflow.note.content": "a note",
    }
    for key, value in wanted_tags.items():
        if run.tags.get(key) != value:
            problems.append(f"tag {key} should be {value!r}: it is {run.tags.get(key)!r}")
    if "dropped" in run.metrics:
        problems.append("a step that went back was not dropped")
    if run.status != "FINISHED":
        problems.append(f"the status should be FINISHED: it is {run.status}")
    starts = (
        "images/media~image+step+10+",
        "tables/table/",
        "wandb/artifacts/model/model/",
        "wandb/files/media/html/",
        "wandb/history.jsonl",
        "wandb/config.json",
    )
    for start in starts:
        if not any(path.startswith(start) for path in run.artifacts):
            problems.append(f"no artifact {start}: there are {sorted(run.artifacts)}")
    return problems


if __name__ == "__main__":
    place = Path(sys.argv[1]).absolute()
    place.mkdir(parents=True)
    found = main(place)
    versions = f"wandb {version('wandb')}, mlflow {version('mlflow')}"
    for problem in found:
        print(f"{versions}: {problem}")
    sys.exit(1 if found else 0)
