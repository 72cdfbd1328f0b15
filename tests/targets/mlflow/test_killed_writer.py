"""A writer that is killed anywhere, and the next one, make the run that one writer makes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.core.model import Checkpoint
from mlflow_wandb_plugin.core.protocols import TargetOptions, WritePath
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.targets.mlflow.client import Client
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_state import RunState, read_runs
from tests.targets.mlflow.writing import document, points, run_info

ODD = {("lr@0",): 1, ("lr_0",): 2, ("lr#0",): 3, ("opt(x)",): 4, ("a", "b.c"): 5}
METRICS = {("m@1",): 1.0, ("m_1",): 2.0, ("m#1",): 3.0}
TAGS = ("t@1", "t_1", "t#1")
MOST_CALLS = 100
EVERY = {"sql": 1, "api": 2, "server": 3}
"""Which of the calls is the last one of a killed writer: all of them, or each second or third."""


class Killed(BaseException):
    """The process ends here."""


def killed_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a writer's calls of MLflow fail from this number on, as if its process were killed."""
    numbers = itertools.count(1)
    real: Callable[..., Any] = Client.call

    def counting(client: Client, *args: Any, **kwargs: Any) -> Any:
        if next(numbers) >= call:
            raise Killed
        return real(client, *args, **kwargs)

    monkeypatch.setattr(Client, "call", counting)


def write(target: MlflowTarget, run_id: str, project: str) -> None:
    """Write a run as the helper process of a training does: first while it runs."""
    named: dict[str, Any] = {"project": project, "first_config": ODD, "tags": TAGS}
    running = run_info(run_id=run_id, state="running", ended_ms=None, exit_code=None, **named)
    writer = target.open(running, "dual", target.find(running))
    try:
        writer.update(running)
        keys = list(METRICS)
        # The log is read again from the position, so that some keys come later than others.
        for number in range(writer.position.get("seg", 0), len(keys)):
            writer.append(points(keys[number], [METRICS[keys[number]]]))
            writer.checkpoint(Checkpoint("seg", number + 1))
        ended = run_info(run_id=run_id, **named)
        writer.update(ended)
        writer.finish(ended, complete=True)
    finally:
        writer.close()


def check(uri: str, run: RunState, folder: Path) -> None:
    """Each key has one name and its own value, and each name's original key is known."""
    known = document(uri, run, "wandb/renamed.json", folder)

    def original(kind: str, name: str) -> tuple[str, ...]:
        return tuple(known.get(kind, {}).get(name, [name]))

    params = [(original("params", name), value) for name, value in run.params.items()]
    assert sorted(params) == sorted((key, str(value)) for key, value in ODD.items())
    metrics = {original("metrics", name): value for name, value in run.latest.items()}
    assert len(run.latest) == len(METRICS)
    assert metrics == METRICS
    assert json.loads(run.tags["wandb.tags"]) == list(TAGS)
    assert run.tags["mlflow.wandb.state"] == "complete"


@pytest.mark.parametrize("way", EVERY)
def test_a_kill_at_any_call_doubles_no_name(
    fresh_store: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Params, tags and metrics with odd names are once in the run, wherever its writer died."""
    path: WritePath = "api" if way == "api" else "auto"
    uri = server if way == "server" else fresh_store
    project = f"killed-{way}"
    for call in range(1, MOST_CALLS, EVERY[way]):
        run_id = f"{way}{call}"
        target = MlflowTarget(uri, TargetOptions(write_path=path), Backoff(0.0))
        with monkeypatch.context() as patch:
            killed_at(call, patch)
            try:
                write(target, run_id, project)
                ended = True
            except Killed:
                ended = False
        write(MlflowTarget(uri, TargetOptions(write_path=path), Backoff(0.0)), run_id, project)
        (run,) = read_runs(uri, only=run_id).values()
        check(uri, run, tmp_path)
        if ended:
            break
    assert ended
    assert call > 5
