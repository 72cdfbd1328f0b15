"""What a plugin can add. Specifications only; `plugins.py` loads and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from mlflow_wandb_plugin.backfill.engines.base import Engine
    from mlflow_wandb_plugin.core.protocols import Source, SourceOptions, Target, TargetOptions

PROJECT = "mlflow_wandb_plugin"

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def open_source(uri: str, options: SourceOptions) -> Source | None:
    """Return a source for ``uri``, or None if another plugin may know it."""


@hookspec(firstresult=True)
def open_target(uri: str, options: TargetOptions) -> Target | None:
    """Return a target for ``uri``, or None if another plugin may know it."""


@hookspec(firstresult=True)
def open_engine(name: str, address: str) -> Engine | None:
    """Return the engine for ``--engine NAME``, or None if another plugin may offer it.
    ``address`` is a cluster's; empty means the engine's own default."""
