"""Offer the engine for backfills on Ray; Ray itself is imported when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_wandb_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from mlflow_wandb_plugin.backfill.engines.base import Engine


@hookimpl
def open_engine(name: str, address: str) -> Engine | None:
    """Return the engine for ``--engine ray``, None for other names."""
    if name != "ray":
        return None
    from mlflow_wandb_ray.engine import RayEngine

    return RayEngine(address)
