"""Both homes of what a program's tasks logged, and the program's own account."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core.model import RunInfo, Selection, Series
from mlflow_wandb_plugin.plugins import open_source
from tests.support.mlflow_state import RunState, read_runs
from tests.support.processes import started

PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).resolve().parents[3]


@dataclass
class WandbRun:
    """A run as its offline logs have it, those of all attempts and processes together."""

    infos: list[RunInfo] = field(default_factory=list)
    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def info(self) -> RunInfo:
        (only,) = self.infos
        return only

    @property
    def states(self) -> list[str]:
        return [info.state for info in self.infos]

    def values(self, key: str) -> list[float]:
        return sorted(value for _, value in self.points.get(key, []))


@dataclass
class LoggedRuns:
    """What a program left behind."""

    said: dict[str, Any]
    output: str
    wandb: dict[str, WandbRun]
    mlflow: dict[str, RunState]

    def values(self, run_id: str, key: str) -> list[float]:
        """A metric's values in MLflow, sorted; the same as in W&B, or this fails."""
        twin = self.mlflow[run_id].metrics.get(key, [])
        values = sorted(value for value, _, _ in twin)
        assert values == self.wandb[run_id].values(key), f"{key} of {run_id} differs"
        return values


def read_logged_runs(
    env: dict[str, str], said: dict[str, Any] | None = None, output: str = ""
) -> LoggedRuns:
    """Both homes of an environment whose W&B is offline and whose MLflow is a SQLite file."""
    wandb: dict[str, WandbRun] = {}
    for folder in sorted((Path(env["WANDB_DIR"]) / "wandb").glob("offline-run-*")):
        source = open_source(str(folder))
        for listed in source.runs(Selection()):
            run = wandb.setdefault(listed.run_id, WandbRun())
            info = listed
            for item in source.read(listed, {}):
                if isinstance(item, Series) and item.kind == "history":
                    points = run.points.setdefault(".".join(item.key), [])
                    points.extend(zip(item.steps, item.values, strict=True))
                elif isinstance(item, RunInfo):
                    info = item
            run.infos.append(info)
    return LoggedRuns(said or {}, output, wandb, read_runs(env["MLFLOW_TRACKING_URI"]))


def run_program(
    name: str, env: dict[str, str], cwd: Path, *arguments: str, timeout: float = 240
) -> tuple[dict[str, Any], str]:
    """Run a program of ``programs/`` in a child. Its last line of output is JSON: what it saw."""
    command = [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments]
    paths = [str(ROOT), str(ROOT / "integrations"), env.get("PYTHONPATH", "")]
    patient = {
        "PYTHONPATH": ":".join(filter(None, paths)),
        "MLFLOW_WANDB_INIT_TIMEOUT": "90",
        "MLFLOW_WANDB_FINISH_TIMEOUT": "120",
    }
    with started(command, {**patient, **env, "PYTHONPATH": patient["PYTHONPATH"]}, cwd) as process:
        out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"exit code {process.returncode}\n{out[-4000:]}\n{err[-8000:]}"
    return json.loads(out.splitlines()[-1]), out + err
