"""What Ray adds to ``mlflow-wandb``: an engine for backfills. Ray itself is imported by its use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_wandb_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from mlflow_wandb_plugin.backfill.engines.base import Engine


@hookimpl
def open_engine(name: str, address: str) -> Engine | None:
    """``--engine ray``."""
    if name != "ray":
        return None
    from mlflow_wandb_ray.engine import RayEngine

    return RayEngine(address)
