"""Find and show MLflow's tracking URI without importing MLflow."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from mlflow_wandb_plugin.core.partial_import import is_partial
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.settings import Settings

_MLFLOW = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://|databricks(-uc)?($|:)|mlflow:$")


def uri(settings: Settings) -> str:
    """The tracking URI of runs that start now, absolute; empty means MLflow's own default.

    The order is: our setting, the argument of `mlflow.set_tracking_uri`, MLflow's environment
    variable.
    """
    chosen = settings.tracking_uri or _set_in_mlflow() or os.environ.get("MLFLOW_TRACKING_URI", "")
    return absolute_uri(chosen)


def _set_in_mlflow() -> str:
    # Of a package that is imported in part, nobody has set anything.
    mlflow = None if is_partial("mlflow") else sys.modules.get("mlflow")
    is_set = getattr(mlflow, "is_tracking_uri_set", None)
    return str(mlflow.get_tracking_uri()) if mlflow and is_set and is_set() else ""


def absolute_uri(uri: str) -> str:
    """An MLflow URI with an absolute path in place of a relative SQLite file or folder: processes
    with another working directory will read it."""
    scheme, _, file = uri.partition(":///")
    if uri.startswith("sqlite") and file:
        return uri if file.startswith(("/", ":")) else f"{scheme}:///{Path(file).absolute()}"
    if not uri or "://" in uri or uri.startswith(("file:", "databricks", "uc:")):
        return uri
    return str(Path(uri).absolute())


def names_mlflow(uri: str) -> bool:
    """Whether ``uri`` names an MLflow store, which need not exist: a tracking URI, also behind
    ``wandb+``, ``mlflow:`` for MLflow's own, or a folder in which MLflow keeps experiments."""
    bare = uri.removeprefix("wandb+")
    if bare.startswith(("http://", "https://")):
        # Behind wandb+ is W&B's own server as a source.
        return bare == uri
    if _MLFLOW.match(bare):
        return True
    folder = Path(bare.removeprefix("file://").removeprefix("file:"))
    return next(folder.glob("*/meta.yaml"), None) is not None if folder.is_dir() else False


def shown(uri: str) -> str:
    """The URI without credentials, for logs, tags and journals."""
    return without_credentials(uri)


def where(uri: str, experiment_id: str, run_id: str) -> str:
    """Where to see a run: "at" its page, or "in" a store that has none."""
    page = link(uri, experiment_id, run_id)
    return f"at {page}" if page else f"in {shown(uri)}"


def link(uri: str, experiment_id: str, run_id: str) -> str:
    """The page of a run on a tracking server; empty for other stores."""
    return _page(uri, f"experiments/{experiment_id}/runs/{run_id}")


def experiments_link(uri: str) -> str:
    """The page with the experiments of a tracking server; empty for other stores."""
    return _page(uri, "experiments")


def ui_command(uri: str) -> str:
    """The command that shows the runs of a store without pages; empty for a server."""
    if not uri or uri.startswith(("http://", "https://", "databricks", "uc:")):
        return ""
    return shlex.join(["mlflow-wandb", "ui", "--to", shown(uri)])


def how_to_see(place: str) -> str:
    """The page of a run, or the command that shows it, of what `where` has said; else empty."""
    how, _, there = place.partition(" ")
    return {"at": there, "in": ui_command(there)}.get(how, "")


def _page(uri: str, path: str) -> str:
    """A page in MLflow's view of trainings: MLflow 3.17 opens the one of GenAI apps else."""
    if uri.startswith(("http://", "https://")):
        return f"{shown(uri).rstrip('/')}/#/{path}?workflowType=machine_learning"
    return ""
