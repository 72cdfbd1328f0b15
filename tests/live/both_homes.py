"""What a run has in W&B and in MLflow, without what every run has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.backfill.verify import verify
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from tests.support.mlflow_state import RunState
from tests.support.wandb_state import rows
from tests.wandb_server import WandbServer


def numbers(server: WandbServer, path: str) -> list[dict[str, Any]]:
    """Rows in W&B without its own keys."""
    return [
        {key: value for key, value in row.items() if key[:1] != "_"}
        for row in rows(server.run(path))
    ]


def points(run: RunState) -> dict[str, list[tuple[int, Any]]]:
    """(step, value) of the metrics that are not the machine's."""
    return {key: run.points(key) for key in run.metrics if not key.startswith("system/")}


def differences(folder: Path, uri: str) -> tuple[Any, ...]:
    """What `verify` finds different between a run's folder and MLflow."""
    (verified,) = verify(WandbDir(folder), MlflowTarget(uri), Selection())
    assert verified.result in ("equal", "different"), verified
    return verified.differences
