"""Load plugins, built-in and installed ones, and open sources and targets through them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

import pluggy

from mlflow_wandb_plugin import builtin_plugin, hookspecs
from mlflow_wandb_plugin.core.metric_rules import MetricRule
from mlflow_wandb_plugin.core.model import Key, RunInfo
from mlflow_wandb_plugin.core.protocols import Source, SourceOptions, Target, TargetOptions
from mlflow_wandb_plugin.core.redaction import without_credentials
from mlflow_wandb_plugin.errors import PluginError, UsageError

if TYPE_CHECKING:
    from mlflow_wandb_plugin.backfill.engines.base import Engine

GROUP = "mlflow_wandb_plugin"


@functools.lru_cache
def manager() -> pluggy.PluginManager:
    """Return the plugin manager with all plugins loaded.

    Raises:
        PluginError: a plugin implements a hook that does not exist.
    """
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    plugins.register(builtin_plugin, "builtin")
    for entry in installed():
        try:
            plugins.register(entry.load(), entry.name)
        except ImportError as error:
            # An integration whose third-party package is not installed is left out.
            if error.name is None or error.name.startswith("mlflow_wandb"):
                warnings.warn(f"plugin {entry.name} cannot be loaded: {error}", stacklevel=2)
    try:
        plugins.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(str(error)) from error
    return plugins


def installed() -> Iterator[EntryPoint]:
    """Yield the entry points of the plugin group, each name once."""
    seen: set[str] = set()
    for entry in entry_points(group=GROUP):
        if entry.name not in seen:
            seen.add(entry.name)
            yield entry


def open_source(uri: str, options: SourceOptions | None = None) -> Source:
    """Open the source that ``uri`` names.

    Raises:
        UsageError: no plugin knows it.
    """
    source: Source | None = manager().hook.open_source(uri=uri, options=options or SourceOptions())
    if source is None:
        raise UsageError(
            f"{without_credentials(uri)} is not a source: pass a wandb folder, a run folder or a "
            ".wandb file that exists, wandb://ENTITY/PROJECT, an MLflow tracking URI, or "
            "archive:DIR"
        )
    return source


def open_target(uri: str, options: TargetOptions | None = None) -> Target:
    """Open the target that ``uri`` names; empty means MLflow's own tracking URI.

    Raises:
        UsageError: no plugin knows it, or it cannot be opened with ``options``.
        TargetUnavailableError: it does not answer.
    """
    target: Target | None = manager().hook.open_target(uri=uri, options=options or TargetOptions())
    if target is None:
        raise UsageError(f"{uri} is not a target: pass an MLflow tracking URI or archive:DIR")
    return target


def map_metric(run: RunInfo, key: Key) -> MetricRule | None:
    """Return the rule of a plugin for a run's key; None if none has one.

    Raises:
        PluginError: what a plugin returned is no rule.
    """
    rule = manager().hook.map_metric(run=run, key=key)
    if rule is not None and not isinstance(rule, MetricRule):
        raise PluginError(f"map_metric of a plugin returned {rule!r}: return a MetricRule or None")
    return rule


def takes(run: RunInfo) -> bool:
    """Whether no plugin leaves a W&B run out; runs that were created in MLflow are all taken."""
    return run.mlflow is not None or manager().hook.select_run(run=run) is not False


def may_leave_out() -> bool:
    """Whether there is a plugin that selects runs."""
    return bool(manager().hook.select_run.get_hookimpls())


def open_engine(name: str, address: str = "") -> Engine:
    """Open the engine of that name.

    Raises:
        UsageError: no plugin offers it.
    """
    engine: Engine | None = manager().hook.open_engine(name=name, address=address)
    if engine is None:
        raise UsageError(
            f"there is no engine {name}: pass local or processes, or install the plugin that "
            f"offers it, pip install 'mlflow-wandb-plugin[{name}]'"
        )
    return engine
