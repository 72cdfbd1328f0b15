"""A task without a decorator has no run, also where one with a run has called it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.environment import isolated
from tests.support.processes import run_script

SCRIPT = """
import json
import flyte
from mlflow_wandb_flyte import get_wandb_run, wandb_init

env = flyte.TaskEnvironment(name="undecorated")
said = {}

@env.task
async def plain() -> bool:
    return get_wandb_run() is None

@env.task
def plain_sync() -> bool:
    return get_wandb_run() is None

@wandb_init(project="p")
@env.task
async def parent() -> str:
    said["before"] = get_wandb_run().id
    said["children"] = [await plain(), await plain_sync.aio()]
    said["after"] = get_wandb_run().id
    return "done"

flyte.init()
flyte.with_runcontext(mode="local").run(parent)
said["outside"] = get_wandb_run() is None
print(json.dumps(said))
"""


def test_a_child_without_a_decorator_does_not_get_its_parents_run(
    tmp_path: Path, empty_store: Path
) -> None:
    """Of either kind; the parent has its own run before and afterwards."""
    env = isolated(tmp_path, MLFLOW_WANDB_HOMES="wandb", WANDB_MODE="offline")
    done = run_script(SCRIPT, env, tmp_path / "work")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["children"] == [True, True]
    assert said["before"] == said["after"]
    assert said["outside"] is True
