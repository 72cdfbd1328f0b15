"""Open runs around the executions of a Flyte task.

A decorator changes the class of a task, in place, to a subclass of its class. The environment's
task therefore is the decorated one, and copies of it (``override``, ``dataclasses.replace``,
pickling) are tracked, too.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flyte.extend import AsyncFunctionTaskTemplate

from mlflow_wandb_flyte.context import get_wandb_context, get_wandb_sweep_context
from mlflow_wandb_flyte.distributed import is_elastic, shape
from mlflow_wandb_flyte.download import (
    download_wandb_run_logs,
    download_wandb_sweep_logs,
    show_logs,
)
from mlflow_wandb_flyte.links import TaskLink
from mlflow_wandb_flyte.mlflow_session import (
    IGNORED_BY_REPLICA,
    NOT_FOR_REPLICA,
    MlflowOptions,
    MlflowSession,
    end_runs_of_killed_workers,
)
from mlflow_wandb_flyte.session import Session, wrapped
from mlflow_wandb_flyte.sweep import SweepOptions, SweepSession
from mlflow_wandb_flyte.wandb_session import WandbOptions, WandbSession
from mlflow_wandb_plugin.core.arguments import ArgumentValueError
from mlflow_wandb_plugin.live import sigterm

logger = logging.getLogger(__name__)

NO_LOGS = "download_logs is not supported for distributed tasks: their logs are not downloaded"

Options = WandbOptions | MlflowOptions | SweepOptions


def track_task(task: Any, options: Options, links: Sequence[Any] = ()) -> Any:
    """Open a run around each execution of ``task``; changes and returns the task.

    Raises:
        ArgumentValueError: `mlflow_run` has arguments that the decorator of a W&B run excludes.
    """
    # Where the task will run may not be the main thread, which alone may do it.
    sigterm.install_handler()
    if not hasattr(task, "tracked_by"):
        _as_tracked(task, ())
    # The same decorator again replaces the one before.
    kept = [one for one in task.tracked_by if type(one) is not type(options)]
    task.tracked_by = (options, *kept)
    _check_together(task.tracked_by)
    task.links = (*task.links, *links)
    return task


def tracked_class(plain: Any) -> Any:
    """Return the subclass of a task class whose tasks are tracked."""

    @dataclass(kw_only=True)
    class Tracked(plain):  # type: ignore[misc]
        tracked_by: tuple[Options, ...] = ()

        async def execute(self, *args: Any, **kwargs: Any) -> Any:
            return await _execute(self, *args, **kwargs)

        def override(self, *, links: Sequence[Any] = (), **changes: Any) -> Any:
            # Override the plain task: another plugin_config changes its class.
            changed = _plain(self).override(links=(), **changes)
            tracked = _as_tracked(changed, self.tracked_by)
            ours = (one for one in self.links if isinstance(one, TaskLink) and one.of_decorator)
            tracked.links = (*links, *ours) if links else self.links
            return tracked

        def __reduce_ex__(self, protocol: Any) -> Any:
            # A class made here cannot be imported, so pickle the plain task.
            return _as_tracked, (_plain(self), self.tracked_by)

    Tracked.__name__ = Tracked.__qualname__ = f"Tracked{plain.__name__}"
    Tracked._plain_class = plain  # type: ignore[attr-defined]
    return Tracked


_tracked: Any = functools.cache(tracked_class)


def _plain(task: Any) -> Any:
    """Return an untracked copy of a tracked task."""
    plain = copy.copy(task)
    plain.__class__ = type(task)._plain_class
    vars(plain).pop("tracked_by", None)
    return plain


def _as_tracked(plain: Any, tracked_by: tuple[Options, ...]) -> Any:
    plain.__class__ = _tracked(type(plain))
    plain.tracked_by = tracked_by
    return plain


async def _execute(task: Any, *args: Any, **kwargs: Any) -> Any:
    sigterm.install_handler()
    call = _Call(task)
    try:
        result = await call.in_sweep(call.runner(), *args, **kwargs)
    except Exception:
        await call.end_killed_workers()
        await call.show_logs()
        raise
    await call.show_logs()
    return result


class _Call:
    """One execution of a tracked task."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._distributed = max(shape(task)) > 1
        self._sessions: list[Session] = []
        self._sweeps: list[SweepSession] = []

    def runner(self) -> Any:
        """Return the plain task with the runs opened where its function runs."""
        runner = _plain(self._task)
        # Worker processes, which torch's launcher starts, each open sessions of their own.
        inner = in_order(self._task.tracked_by)
        sessions = functools.partial(sessions_of if is_elastic(runner) else self._opened, inner)
        runner.func = wrapped(runner.func, sessions)
        return runner

    def _opened(self, options: Sequence[Options]) -> list[Session]:
        self._sessions = sessions_of(options)
        return self._sessions

    async def in_sweep(self, runner: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute the task inside its sweep; all its processes share one."""
        of_sweeps = (one for one in self._task.tracked_by if isinstance(one, SweepOptions))
        self._sweeps = [SweepSession(one) for one in of_sweeps]

        async def execute() -> Any:
            return await runner.execute(*args, **kwargs)

        return await wrapped(execute, lambda: self._sweeps)()

    async def end_killed_workers(self) -> None:
        """End the MLflow runs of workers that were killed and could not end them."""
        if self._distributed:
            for options in self._task.tracked_by:
                if isinstance(options, MlflowOptions):
                    await asyncio.to_thread(end_runs_of_killed_workers, options)

    async def show_logs(self) -> None:
        """Download the logs of the runs into traces, if ``download_logs`` asks for it."""
        wanted = [type(one) for one in self._task.tracked_by if wants_logs(one)]
        if WandbOptions in wanted and self._distributed:
            logger.warning(NO_LOGS)
        for session in self._sessions if WandbOptions in wanted else ():
            run = session.run if isinstance(session, WandbSession) else None
            if run is not None and run.offline:
                logger.warning("download_logs: run %s is offline, W&B has no logs of it", run.id)
            elif run is not None:
                await show_logs(download_wandb_run_logs, run.id, run.project, run.entity)
        for sweep in self._sweeps if SweepOptions in wanted else ():
            where = sweep.sweep_id, sweep.project, sweep.entity
            await show_logs(download_wandb_sweep_logs, *where)


def wants_logs(options: Options) -> bool:
    """Whether a decorator, or else the configuration, asks for ``download_logs``."""
    if isinstance(options, MlflowOptions):
        return False
    of_sweep = isinstance(options, SweepOptions)
    config = get_wandb_sweep_context() if of_sweep else get_wandb_context()
    configured = bool(config and config.download_logs)
    return configured if options.download_logs is None else options.download_logs


def in_order(tracked_by: Sequence[Options]) -> tuple[Options, ...]:
    """Return the options of runs, W&B's first, whose replica may then be the task's MLflow run."""
    wandb = [one for one in tracked_by if isinstance(one, WandbOptions)]
    mlflow = [one for one in tracked_by if isinstance(one, MlflowOptions)]
    for options in mlflow:
        if options.mode() == "auto":
            init, settings = options.for_replica()
            arguments = options.arguments()
            for name in IGNORED_BY_REPLICA if wandb else ():
                if arguments.get(name) and name not in options.given:
                    logger.warning("mlflow_config(%s=…) is not of a W&B run's replica", name)
            wandb = [
                replace(
                    one,
                    with_mlflow=True,
                    init={**init, **one.init},
                    settings={**settings, **one.settings},
                )
                for one in wandb
            ]
    return (*wandb, *mlflow)


def _check_together(tracked_by: Sequence[Options]) -> None:
    if not any(isinstance(one, WandbOptions) for one in tracked_by):
        return
    for options in tracked_by:
        if isinstance(options, MlflowOptions) and options.run_mode == "auto":
            for name in NOT_FOR_REPLICA:
                if options.given.get(name):
                    raise ArgumentValueError(
                        f"mlflow_run({name}=…) is not possible beside wandb_init or track, whose "
                        "run has one replica in MLflow: leave it out, or pass run_mode='new'"
                    )


def sessions_of(options: Sequence[Options]) -> list[Session]:
    """Return a new session for the options of each run, for one call."""
    return [
        WandbSession(one) if isinstance(one, WandbOptions) else MlflowSession(one)
        for one in options
        if not isinstance(one, SweepOptions)
    ]


def is_task(thing: Any) -> bool:
    return isinstance(thing, AsyncFunctionTaskTemplate)
