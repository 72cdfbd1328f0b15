"""A Flyte task with runs around it.

A tracked task is of a subclass of its own class, changed in place: the environment's task is the
decorated one, and what makes copies of a task (``override``, ``dataclasses.replace``, pickling)
makes tracked ones.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flyte.extend import AsyncFunctionTaskTemplate

from mlflow_wandb_flyte import leaving
from mlflow_wandb_flyte.distributed import shape
from mlflow_wandb_flyte.mlflow_session import MlflowOptions, MlflowSession
from mlflow_wandb_flyte.session import Session, wrapped
from mlflow_wandb_flyte.sweep import SweepOptions, SweepSession
from mlflow_wandb_flyte.wandb_session import WandbOptions, WandbSession

logger = logging.getLogger(__name__)

Options = WandbOptions | MlflowOptions | SweepOptions


def track_task(task: Any, options: Options, links: Sequence[Any] = ()) -> Any:
    """Put a run around each execution of ``task``, in place; returns the task."""
    if not hasattr(task, "tracked_by"):
        task.__class__ = _tracked(type(task))
        task.tracked_by = ()
    # The same decorator again takes the place of the one before.
    kept = [one for one in task.tracked_by if type(one) is not type(options)]
    task.tracked_by = (options, *kept)
    task.links = (*task.links, *links)
    return task


def tracked_class(plain: Any) -> Any:
    """The subclass of a task class whose tasks are tracked."""

    @dataclass(kw_only=True)
    class Tracked(plain):  # type: ignore[misc]
        tracked_by: tuple[Options, ...] = ()

        async def execute(self, *args: Any, **kwargs: Any) -> Any:
            return await _execute(self, *args, **kwargs)

        def override(self, *, links: Sequence[Any] = (), **changes: Any) -> Any:
            # The plain task is overridden, for another plugin_config makes it one of another class.
            changed = _plain(self).override(links=(), **changes)
            tracked = _as_tracked(changed, self.tracked_by)
            tracked.links = _with_ours(tuple(links), self.links) if links else self.links
            return tracked

        def __reduce_ex__(self, protocol: Any) -> Any:
            # By reference: a class made here is found nowhere.
            return _as_tracked, (_plain(self), self.tracked_by)

    Tracked.__name__ = Tracked.__qualname__ = f"Tracked{plain.__name__}"
    Tracked._plain_class = plain  # type: ignore[attr-defined]
    return Tracked


_tracked: Any = functools.cache(tracked_class)


def _with_ours(given: tuple[Any, ...], before: tuple[Any, ...]) -> tuple[Any, ...]:
    """Links that replace the user's own; those of our decorators stay."""
    return (*given, *(link for link in before if getattr(link, "_of_decorator", False)))


def _plain(task: Any) -> Any:
    """A copy of a tracked task as it was before."""
    plain = copy.copy(task)
    plain.__class__ = type(task)._plain_class
    vars(plain).pop("tracked_by", None)
    return plain


def _as_tracked(plain: Any, tracked_by: tuple[Options, ...]) -> Any:
    plain.__class__ = _tracked(type(plain))
    plain.tracked_by = tracked_by
    return plain


async def _execute(task: Any, *args: Any, **kwargs: Any) -> Any:
    leaving.watch()
    call = _Call(task)
    runner = call.runner()
    try:
        result = await call.in_sweep(runner, *args, **kwargs)
    except Exception:
        await call.failed()
        raise
    await call.download_logs()
    return result


class _Call:
    """One execution of a tracked task."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._distributed = max(shape(task)) > 1
        self._sessions: list[Session] = []
        self._sweeps: list[SweepSession] = []

    def runner(self) -> Any:
        """The plain task, with the runs around its function: a sync function has a thread, a
        distributed one its processes, and the runs are opened there."""
        runner = _plain(self._task)
        inner = in_order(self._task.tracked_by)
        if _launches_processes(runner):
            # What a worker process opens stays there.
            runner.func = wrapped(runner.func, functools.partial(sessions_of, inner))
        else:
            runner.func = wrapped(runner.func, functools.partial(self._opened, inner))
        return runner

    def _opened(self, options: Sequence[Options]) -> list[Session]:
        self._sessions = sessions_of(options)
        return self._sessions

    async def in_sweep(self, runner: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute the task inside its sweep, which is one, whatever the number of processes."""
        self._sweeps = [
            SweepSession(one) for one in self._task.tracked_by if isinstance(one, SweepOptions)
        ]

        async def execute() -> Any:
            return await runner.execute(*args, **kwargs)

        return await wrapped(execute, lambda: self._sweeps)()

    async def failed(self) -> None:
        """Workers that were killed outright could not say so."""
        if self._distributed:
            from mlflow_wandb_flyte.leftovers import end_leftovers

            await end_leftovers(self._task.tracked_by)

    async def download_logs(self) -> None:
        from mlflow_wandb_flyte.logs import download_run, download_sweep

        for options in self._task.tracked_by:
            if isinstance(options, WandbOptions) and options.wants_logs():
                if self._distributed:
                    logger.warning("download_logs: a distributed task's logs are not downloaded")
                for session in self._sessions:
                    if isinstance(session, WandbSession) and session.run is not None:
                        await download_run(session.run)
            if isinstance(options, SweepOptions) and options.wants_logs():
                for sweep in self._sweeps:
                    await download_sweep(sweep)


def _launches_processes(task: Any) -> bool:
    """torch's launcher starts worker processes, which are handed the function."""
    return type(getattr(task, "plugin_config", None)).__name__ == "Elastic"


def in_order(tracked_by: Sequence[Options]) -> tuple[Options, ...]:
    """The options of runs, W&B's first: with both decorators on a task, its MLflow run is the
    W&B run's replica."""
    wandb = [one for one in tracked_by if isinstance(one, WandbOptions)]
    mlflow = [one for one in tracked_by if isinstance(one, MlflowOptions)]
    if mlflow:
        wandb = [replace(one, with_mlflow=True) for one in wandb]
    return (*wandb, *mlflow)


def sessions_of(options: Sequence[Options]) -> list[Session]:
    """A new session for each, for one call."""
    return [
        WandbSession(one) if isinstance(one, WandbOptions) else MlflowSession(one)
        for one in options
        if not isinstance(one, SweepOptions)
    ]


def is_task(thing: Any) -> bool:
    return isinstance(thing, AsyncFunctionTaskTemplate)
