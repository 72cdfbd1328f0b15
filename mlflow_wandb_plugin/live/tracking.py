"""Where this process's MLflow is, found without importing MLflow."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mlflow_wandb_plugin.mapping import without_credentials
from mlflow_wandb_plugin.settings import Settings

SQLITE = "sqlite:///"


def uri(settings: Settings) -> str:
    """The tracking URI of runs that start now, absolute; empty means MLflow's own default.

    The order is: our setting, what the script told MLflow (`mlflow.set_tracking_uri`), MLflow's
    environment variable.
    """
    chosen = settings.tracking_uri or _told_to_mlflow() or os.environ.get("MLFLOW_TRACKING_URI", "")
    return absolute(chosen)


def _told_to_mlflow() -> str:
    mlflow = sys.modules.get("mlflow")
    if mlflow is None or not hasattr(mlflow, "is_tracking_uri_set"):
        return ""
    return str(mlflow.get_tracking_uri()) if mlflow.is_tracking_uri_set() else ""


def absolute(uri: str) -> str:
    """A relative SQLite file or folder in terms of this process's folder: others will read it."""
    if uri.startswith(SQLITE):
        file = uri.removeprefix(SQLITE)
        return uri if file.startswith(("/", ":")) else f"{SQLITE}{Path(file).absolute()}"
    if not uri or "://" in uri or uri.startswith(("file:", "databricks", "uc:")):
        return uri
    return str(Path(uri).absolute())


def shown(uri: str) -> str:
    """The URI as it may be written down."""
    return without_credentials(uri)


def where(uri: str, experiment_id: str, run_id: str) -> str:
    """How to look at a run: its page, or the command that shows it."""
    if uri.startswith(("http://", "https://")):
        return f"at {shown(uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"in {shown(uri)}"
