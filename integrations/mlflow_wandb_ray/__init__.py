"""Log from Ray Train, Tune and tasks to Weights & Biases and MLflow; backfill on a cluster.

Importing this package does not import Ray.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DualLoggerCallback", "DualTrainCallback", "setup_dual"]


def __getattr__(name: str) -> Any:
    if name == "setup_dual":
        from mlflow_wandb_ray.worker import setup_dual

        return setup_dual
    if name == "DualTrainCallback":
        from mlflow_wandb_ray.controller import DualTrainCallback

        return DualTrainCallback
    if name == "DualLoggerCallback":
        from mlflow_wandb_ray.tune import DualLoggerCallback

        return DualLoggerCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
