"""What a plugin can add. Specifications only; `plugins.py` loads and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from mlflow_wandb_plugin.endpoints.base import Source, Target

PROJECT = "mlflow_wandb_plugin"

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def open_source(uri: str) -> Source | None:
    """A source for ``uri``, or None if it is not yours."""


@hookspec(firstresult=True)
def open_target(uri: str, experiment: str) -> Target | None:
    """A target for ``uri``, or None if it is not yours. ``experiment`` is a name template."""
