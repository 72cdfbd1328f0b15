"""Open a run before a task's function, enter it, and close it with the way the function ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from mlflow_wandb_plugin.live.sigterm import ended_on_sigterm

Ending: TypeAlias = Literal["finished", "failed", "killed"]


class Session(Protocol):
    """One run, or a share in one, for one call of a function."""

    def open(self) -> None:
        """Open the run. May take seconds; called outside the event loop."""

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Make the run the current one for the function, its traces and its child tasks."""

    def close(self, ending: Ending) -> None:
        """End the run. Never raises; SIGTERM may call it a second time."""


def wrapped(function: Any, sessions: Callable[[], Sequence[Session]]) -> Any:
    """Return ``function`` with sessions around each call, the first outermost.

    The sessions enter in the thread that runs the function, where MLflow looks for its run.
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            async with contextlib.AsyncExitStack() as stack:
                for session in sessions():
                    await stack.enter_async_context(_running_async(session))
                return await function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with contextlib.ExitStack() as stack:
                for session in sessions():
                    stack.enter_context(running(session))
                return function(*args, **kwargs)

    return call


@contextlib.contextmanager
def running(session: Session) -> Iterator[None]:
    """Open a session, enter it for the block, and close it."""
    session.open()
    endings: list[Ending] = []
    try:
        with _entered(session, endings):
            yield
    finally:
        session.close(endings[0])


@contextlib.asynccontextmanager
async def _running_async(session: Session) -> AsyncIterator[None]:
    """As `running`, without blocking the event loop while the run is opened and closed."""
    opening = asyncio.ensure_future(asyncio.to_thread(session.open))
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError as cancelled:
        await opening
        await asyncio.to_thread(session.close, ending_of(cancelled))
        raise
    endings: list[Ending] = []
    try:
        with _entered(session, endings):
            yield
    finally:
        await asyncio.shield(asyncio.to_thread(session.close, endings[0]))


@contextlib.contextmanager
def _entered(session: Session, endings: list[Ending]) -> Iterator[None]:
    """Enter an open session, and append how the block ended to ``endings``."""
    try:
        with ended_on_sigterm(lambda: session.close("killed")), session.entered():
            yield
        endings.append("finished")
    except BaseException as error:
        endings.append(ending_of(error))
        raise


def ending_of(error: BaseException) -> Ending:
    """A task's own error is a failure; being cancelled or interrupted is not."""
    if isinstance(error, SystemExit) and not error.code:
        return "finished"
    return "failed" if isinstance(error, (Exception, SystemExit)) else "killed"
