"""Which run is "the" run: wandb's and MLflow's ask the process or the thread, Flyte runs several
tasks in one. Here a context variable answers first, so that concurrent tasks never mix.

``wandb.run``, ``wandb.log`` and the like, and MLflow's stack of active runs, look it up; where no
task has set it, everything is as the two libraries have it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

_wandb_run: ContextVar[Any] = ContextVar("mlflow_wandb_flyte_wandb_run", default=None)
_mlflow_runs: ContextVar[list[Any] | None] = ContextVar(
    "mlflow_wandb_flyte_mlflow_runs", default=None
)
_lock = threading.Lock()

OF_THE_RUN = (
    "alert", "config", "define_metric", "link_model", "log", "log_artifact", "log_model",
    "mark_preempting", "save", "summary", "unwatch", "use_artifact", "use_model", "watch",
)  # fmt: skip
"""Names of the module wandb that belong to its current run."""


@contextmanager
def wandb_run(run: Any) -> Iterator[None]:
    """Inside, and in what is started with a copy of this context, ``run`` is wandb's run."""
    import wandb

    _make_wandb_ask()
    token = _wandb_run.set(run)
    # Plain threads carry no context; they find the one run of this process, if there is only one.
    alone = vars(wandb).get("run") is None
    if alone:
        _set_globals(run)
    try:
        yield
    finally:
        if alone and vars(wandb).get("run") is run:
            _unset_globals()
        _wandb_run.reset(token)


@contextmanager
def mlflow_runs(*runs: Any) -> Iterator[None]:
    """Inside, MLflow's stack of active runs is ``runs``, and nobody else's."""
    _make_mlflow_ask()
    token = _mlflow_runs.set(list(runs))
    try:
        yield
    finally:
        _mlflow_runs.reset(token)


def _make_wandb_ask() -> None:
    import wandb

    with _lock:
        if not isinstance(wandb, _Wandb):
            wandb.__class__ = _Wandb


def _of_the_run(name: str) -> property:
    def get(module: ModuleType) -> Any:
        run = _wandb_run.get()
        if run is None:
            try:
                return vars(module)[name]
            except KeyError:
                raise AttributeError(f"module 'wandb' has no attribute {name!r}") from None
        return run if name == "run" else getattr(run, name)

    def set_(module: ModuleType, value: Any) -> None:
        vars(module)[name] = value

    def delete(module: ModuleType) -> None:
        del vars(module)[name]

    return property(get, set_, delete)


class _Wandb(ModuleType):
    """The module wandb, whose current run is the context's."""


for _name in ("run", *OF_THE_RUN):
    setattr(_Wandb, _name, _of_the_run(_name))


def _set_globals(run: Any) -> None:
    _names().set_global(run=run, **{name: getattr(run, name) for name in OF_THE_RUN})


def _unset_globals() -> None:
    _names().unset_globals()


def _names() -> Any:
    """What sets the names of the module wandb."""
    from wandb.sdk.lib import module

    return module


class _Stack:
    """Stands where MLflow's thread-local stack of active runs stood."""

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


def _make_mlflow_ask() -> None:
    import mlflow  # noqa: F401

    fluent: Any = sys.modules["mlflow.tracking.fluent"]
    with _lock:
        if not isinstance(fluent._active_run_stack, _Stack):
            fluent._active_run_stack = _Stack(fluent._active_run_stack)
