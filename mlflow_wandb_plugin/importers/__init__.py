"""The importers that wandb had up to 0.27.0, under their names, over the backfill.

Importing this package imports neither wandb nor mlflow.
"""

from __future__ import annotations

from mlflow_wandb_plugin.importers.carrying import ImportResult
from mlflow_wandb_plugin.importers.mlflow import MlflowImporter, MlflowRun
from mlflow_wandb_plugin.importers.namespace import Namespace
from mlflow_wandb_plugin.importers.wandb import WandbImporter, WandbRun

__all__ = [
    "ImportResult",
    "MlflowImporter",
    "MlflowRun",
    "Namespace",
    "WandbImporter",
    "WandbRun",
]
