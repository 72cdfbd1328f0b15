"""Where this process's MLflow is, found without importing MLflow."""

from __future__ import annotations

import os
import sys

from mlflow_wandb_plugin.core.helper_process import absolute_uri
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.settings import Settings


def uri(settings: Settings) -> str:
    """The tracking URI of runs that start now, absolute; empty means MLflow's own default.

    The order is: our setting, what the script told MLflow (`mlflow.set_tracking_uri`), MLflow's
    environment variable.
    """
    chosen = settings.tracking_uri or _told_to_mlflow() or os.environ.get("MLFLOW_TRACKING_URI", "")
    return absolute_uri(chosen)


def _told_to_mlflow() -> str:
    mlflow = sys.modules.get("mlflow")
    if mlflow is None or not hasattr(mlflow, "is_tracking_uri_set"):
        return ""
    return str(mlflow.get_tracking_uri()) if mlflow.is_tracking_uri_set() else ""


def shown(uri: str) -> str:
    """The URI as it may be written down."""
    return without_credentials(uri)


def where(uri: str, experiment_id: str, run_id: str) -> str:
    """How to look at a run: its page, or the command that shows it."""
    if uri.startswith(("http://", "https://")):
        return f"at {shown(uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"in {shown(uri)}"
