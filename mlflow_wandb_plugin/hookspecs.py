"""What a plugin can add. Specifications only; `plugins.py` loads and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from mlflow_wandb_plugin.backfill.job import Engine
    from mlflow_wandb_plugin.core.protocols import Source, Target

PROJECT = "mlflow_wandb_plugin"

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def open_source(uri: str) -> Source | None:
    """A source for ``uri``, or None if it is not yours."""


@hookspec(firstresult=True)
def open_target(uri: str, experiment: str) -> Target | None:
    """A target for ``uri``, or None if it is not yours. ``experiment`` is a name template."""


@hookspec(firstresult=True)
def open_engine(name: str, address: str) -> Engine | None:
    """What carries the runs of a backfill with ``--engine NAME``, or None if it is not yours.
    ``address`` is a cluster's; empty means the engine's own default."""
