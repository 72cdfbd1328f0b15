"""An environment in which wandb, MLflow and their helpers touch nothing outside one folder."""

from __future__ import annotations

import os
from pathlib import Path

DROPPED = ("WANDB_", "MLFLOW_", "DATABRICKS_")


def isolated(folder: Path, **more: str) -> dict[str, str]:
    """Variables for a child process whose every file lies below ``folder``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    places = {
        "HOME": "home",
        "WANDB_DIR": "work",
        "WANDB_CACHE_DIR": "cache",
        "WANDB_DATA_DIR": "data",
        "WANDB_CONFIG_DIR": "config",
        "TMPDIR": "tmp",
    }
    for name, place in places.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        env[name] = str(folder / place)
    env.update(
        WANDB_MODE="offline",
        WANDB_SILENT="false",
        WANDB_ERROR_REPORTING="false",
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_TRACKING_URI=f"sqlite:///{folder / 'mlflow.db'}",
        DO_NOT_TRACK="true",
        GIT_CONFIG_GLOBAL=os.devnull,
        PYTHONWARNINGS="default",
    )
    return env | more
