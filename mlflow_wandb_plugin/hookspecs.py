"""What a plugin can add. Specifications only; `plugins.py` loads and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from mlflow_wandb_plugin.backfill.engines.base import Engine
    from mlflow_wandb_plugin.core.metric_rules import MetricRule
    from mlflow_wandb_plugin.core.model import Key, RunInfo
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


@hookspec(firstresult=True)
def map_metric(run: RunInfo, key: Key) -> MetricRule | None:
    """Return how the points of a history key are written to MLflow, or None if another plugin may
    say it. It holds for dual-written and backfilled runs alike, and for what `verify` expects, so
    the answer must depend on nothing but the run's identity and the key. It is asked once a key.
    System metrics, and runs that were created in MLflow, are not asked for."""


@hookspec(firstresult=True)
def select_run(run: RunInfo) -> bool | None:
    """Return False for a W&B run that is not to be written to MLflow, dual-written or backfilled;
    None if another plugin may say it. A run that is dual-written is asked for when it starts, with
    the config and the tags that it has then."""
