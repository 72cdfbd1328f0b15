"""Helpers that write runs into a real store and read them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from mlflow_wandb_plugin.core.model import RunInfo, Series
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.targets.mlflow.run_writer import MlflowRunWriter
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_state import RunState, read_runs


def run_info(**fields: Any) -> RunInfo:
    """A finished run; any field may be given."""
    known: dict[str, Any] = {
        "run_id": "r1", "project": "unit", "name": "a run", "segments": ("seg",),
        "state": "finished", "exit_code": 0, "started_ms": 1_000_000, "ended_ms": 2_000_000,
        "last_step": 9, "last_ms": 1_900_000,
    }  # fmt: skip
    return RunInfo(**(known | fields))


def points(key: str | tuple[str, ...], values: list[float], first_step: int = 0) -> Series:
    """A series with one point per step and second."""
    steps = [first_step + number for number in range(len(values))]
    path = (key,) if isinstance(key, str) else key
    return Series(path, steps, [1_000_000 + 1000 * step for step in steps], values)


@contextlib.contextmanager
def opened(
    uri: str, info: RunInfo, patience_s: float = 0.0, adopt_dual: bool = False
) -> Iterator[MlflowRunWriter]:
    """A writer of the run of ``info``, which is created or found; if it is not finished in the
    context, its process has died as far as MLflow can tell."""
    target = MlflowTarget(uri, TargetOptions(adopt_dual=adopt_dual), Backoff(patience_s))
    writer = target.open(info, "backfill", target.find(info))
    try:
        yield writer
    finally:
        writer.close()


def end(writer: MlflowRunWriter, info: RunInfo, complete: bool = True) -> None:
    """Do what a backfill does at the end of a run."""
    writer.update(info)
    writer.finish(info, complete)


def the_run(uri: str, folder: Path | None = None) -> RunState:
    """The only run of the store."""
    (run,) = read_runs(uri, folder).values()
    return run


def document(uri: str, run: RunState, path: str, folder: Path) -> Any:
    """A JSON document among the run's artifacts, or the lines of a .jsonl."""
    text = downloaded(uri, run, path, folder).read_text(encoding="utf-8")
    if path.endswith(".jsonl"):
        return [json.loads(line) for line in text.split("\n") if line]
    return json.loads(text)


def downloaded(uri: str, run: RunState, path: str, folder: Path) -> Path:
    target = folder / "downloaded"
    target.mkdir(exist_ok=True)
    return Path(MlflowClient(uri).download_artifacts(run.run_id, path, str(target)))


def file(folder: Path, name: str, text: str = "content") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def losses(uri: str) -> Any:
    return json.loads(the_run(uri).tags["mlflow.wandb.losses"])


def write(uri: str, *items: Any) -> None:
    info = run_info()
    with opened(uri, info) as writer:
        for item in items:
            writer.add(item)
        end(writer, info)
