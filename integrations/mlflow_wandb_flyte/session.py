"""The life of a run around a task's function: opened, entered, closed with the way it ended."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Literal, Protocol, TypeAlias

from mlflow_wandb_flyte.leaving import ended_if_killed

Ending: TypeAlias = Literal["finished", "failed", "killed"]


class Session(Protocol):
    """One run, or one share in a run, for one call of a function."""

    def open(self) -> None:
        """Open the run. May take seconds; called outside of the event loop."""

    def entered(self) -> AbstractContextManager[None]:
        """What the function, its traces and its children see of the run."""

    def close(self, ending: Ending) -> None:
        """End the run. Called once more if the process is killed meanwhile; never raises."""


def wrapped(function: Any, sessions: Callable[[], Sequence[Session]]) -> Any:
    """``function`` with sessions around each call, the first outermost.

    The sessions enter in the thread that runs the function, where MLflow looks for its run.
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            async with AsyncExitStack() as stack:
                for session in sessions():
                    await stack.enter_async_context(_running_async(session))
                return await function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                for session in sessions():
                    stack.enter_context(_running(session))
                return function(*args, **kwargs)

    return call


@contextmanager
def _running(session: Session) -> Iterator[None]:
    session.open()
    ending: Ending = "killed"
    try:
        with ended_if_killed(lambda: session.close("killed")), session.entered():
            yield
        ending = "finished"
    except BaseException as error:
        ending = ending_of(error)
        raise
    finally:
        session.close(ending)


@asynccontextmanager
async def _running_async(session: Session) -> AsyncIterator[None]:
    """As `_running`; other tasks on the event loop go on while the run is opened and closed."""
    opening = asyncio.ensure_future(asyncio.to_thread(session.open))
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError as cancelled:
        await opening
        await asyncio.to_thread(session.close, ending_of(cancelled))
        raise
    ending: Ending = "killed"
    try:
        with ended_if_killed(lambda: session.close("killed")), session.entered():
            yield
        ending = "finished"
    except BaseException as error:
        ending = ending_of(error)
        raise
    finally:
        await asyncio.shield(asyncio.to_thread(session.close, ending))


def ending_of(error: BaseException) -> Ending:
    """A task's own error is a failure; being cancelled or interrupted is not."""
    if isinstance(error, SystemExit) and not error.code:
        return "finished"
    return "failed" if isinstance(error, (Exception, SystemExit)) else "killed"
