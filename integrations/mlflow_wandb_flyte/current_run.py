"""Give each Flyte task its own current run in wandb and MLflow.

wandb keeps one current run a process, MLflow a stack of them a thread; Flyte runs several tasks in
one process. Inside a task, a context variable therefore answers ``wandb.run``, ``wandb.log`` and
the like, and MLflow's stack of active runs. Elsewhere both libraries work as without us.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from types import ModuleType
from typing import Any

import wandb
from wandb.sdk.lib import module

_wandb_run: ContextVar[Any] = ContextVar("mlflow_wandb_flyte_wandb_run", default=None)
_mlflow_runs: ContextVar[list[Any] | None] = ContextVar(
    "mlflow_wandb_flyte_mlflow_runs", default=None
)
_lock = threading.Lock()

RUN_ATTRIBUTES = tuple(name for name in signature(module.set_global).parameters if name != "run")
"""Attributes of the wandb module that belong to its current run."""


@contextmanager
def wandb_run(run: Any) -> Iterator[None]:
    """Make ``run`` wandb's current run here and in what starts with a copy of this context."""
    wandb_globals: Any = module
    with _lock:
        if not isinstance(wandb, _WandbModule):
            wandb.__class__ = _WandbModule
    token = _wandb_run.set(run)
    # Plain threads have no context: they use the globals, which name the first run of the process.
    sets_globals = vars(wandb).get("run") is None
    if sets_globals:
        attributes = {name: getattr(run, name) for name in RUN_ATTRIBUTES}
        wandb_globals.set_global(run=run, **attributes)
    try:
        yield
    finally:
        if sets_globals and vars(wandb).get("run") is run:
            wandb_globals.unset_globals()
        _wandb_run.reset(token)


@contextmanager
def mlflow_runs(*runs: Any) -> Iterator[None]:
    """Make ``runs`` MLflow's whole stack of active runs."""
    import mlflow  # noqa: F401

    fluent: Any = sys.modules["mlflow.tracking.fluent"]
    with _lock:
        if not isinstance(fluent._active_run_stack, _RunStack):
            fluent._active_run_stack = _RunStack(fluent._active_run_stack)
    token = _mlflow_runs.set(list(runs))
    try:
        yield
    finally:
        _mlflow_runs.reset(token)


def _run_attribute(name: str) -> property:
    def get(wandb_module: ModuleType) -> Any:
        run = _wandb_run.get()
        if run is None:
            try:
                return vars(wandb_module)[name]
            except KeyError:
                raise AttributeError(f"module 'wandb' has no attribute {name!r}") from None
        return run if name == "run" else getattr(run, name)

    def set_(wandb_module: ModuleType, value: Any) -> None:
        vars(wandb_module)[name] = value

    return property(get, set_, lambda wandb_module: vars(wandb_module).pop(name))


class _WandbModule(ModuleType):
    """The wandb module, with the current run of the context."""


for _name in ("run", *RUN_ATTRIBUTES):
    setattr(_WandbModule, _name, _run_attribute(_name))


class _RunStack:
    """Replaces MLflow's thread-local stack of active runs."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def get(self) -> Any:
        runs = _mlflow_runs.get()
        return self._original.get() if runs is None else runs

    def set(self, value: Any) -> None:
        if _mlflow_runs.get() is None:
            self._original.set(value)
        else:
            _mlflow_runs.set(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)
