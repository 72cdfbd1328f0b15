"""Log training runs to Weights & Biases and to MLflow, and migrate history between them.

Importing this package imports neither wandb nor mlflow.
"""

from __future__ import annotations

from typing import Any

from mlflow_wandb_plugin.errors import MlflowWandbError

__version__ = "0.1.0"
__all__ = [
    "MlflowWandbError", "__version__", "autolog", "backfill", "dual_write", "history", "runs",
    "verify",
]  # fmt: skip


def autolog(**settings: Any) -> None:
    """Replicate every W&B run that this process starts from now on into MLflow.

    Call it before ``wandb.init``, before or after ``import wandb``; calling it again changes the
    settings of runs to come.

    Args:
        settings: fields of `mlflow_wandb_plugin.settings.Settings`, e.g. ``tracking_uri``.

    Raises:
        UsageError: a setting is unknown or its value does not fit.
    """
    from mlflow_wandb_plugin.core.training_settings import load_settings
    from mlflow_wandb_plugin.live.tap import install

    install(load_settings(**settings))


def __getattr__(name: str) -> Any:
    if name == "dual_write":
        from mlflow_wandb_plugin.live.decorator import dual_write

        return dual_write
    if name == "backfill":
        import importlib

        return importlib.import_module("mlflow_wandb_plugin.backfill")
    if name in ("runs", "history"):
        from mlflow_wandb_plugin.export import tables

        return tables.runs if name == "runs" else tables.history
    if name == "verify":
        from mlflow_wandb_plugin.backfill.execution import verify_runs

        return verify_runs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
