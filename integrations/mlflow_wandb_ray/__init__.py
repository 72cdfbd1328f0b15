"""Log from Ray Train, Tune and tasks to Weights & Biases and MLflow; backfill on a cluster.

Importing this package does not import Ray.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "DualLoggerCallback": "mlflow_wandb_ray.tune",
    "DualTrainCallback": "mlflow_wandb_ray.controller",
    "MLflowLoggerCallback": "mlflow_wandb_ray.tune",
    "WandbLoggerCallback": "mlflow_wandb_ray.tune",
    "setup_dual": "mlflow_wandb_ray.worker",
    "setup_mlflow": "mlflow_wandb_ray.worker",
    "setup_wandb": "mlflow_wandb_ray.worker",
}
__all__ = [
    "DualLoggerCallback", "DualTrainCallback", "MLflowLoggerCallback", "WandbLoggerCallback",
    "setup_dual", "setup_mlflow", "setup_wandb",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
