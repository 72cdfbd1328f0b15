"""``@dual_write``: a W&B run around a training function, replicated to MLflow."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])


@overload
def dual_write(function: F, /) -> F: ...
@overload
def dual_write(**init: Any) -> Callable[[F], F]: ...
def dual_write(function: Any = None, /, **init: Any) -> Any:
    """Open a W&B run for each call of a function, and finish it when the call ends.

    Works on functions, coroutine functions, generators and async generators, with or without
    arguments. An exception ends the run with exit code 1, FAILED in MLflow, and is raised to the
    caller. If a run is already open, the function logs into that run.

    Args:
        init: arguments of ``wandb.init``, and fields of `mlflow_wandb_plugin.settings.Settings`
            such as ``experiment`` and ``tracking_uri``.
    """
    if function is None:
        return lambda wrapped: _wrap(wrapped, init)
    return _wrap(function, init)


def _wrap(function: Any, init: dict[str, Any]) -> Any:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _run(init):
                async for value in function(*args, **kwargs):
                    yield value

    elif inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _run(init):
                return await function(*args, **kwargs)

    elif inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _run(init):
                return (yield from function(*args, **kwargs))

    else:
        # Not `_run(init)(function)`, whose generator cloudpickle cannot send to Ray's workers.
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _run(init):
                return function(*args, **kwargs)

    return wrapper


@contextmanager
def _run(init: dict[str, Any]) -> Iterator[None]:
    from dataclasses import fields

    import wandb

    from mlflow_wandb_plugin.live.tap import using
    from mlflow_wandb_plugin.settings import Settings

    ours = {field.name for field in fields(Settings)}
    with using(**{name: value for name, value in init.items() if name in ours}):
        if wandb.run is None:
            run = wandb.init(**{name: value for name, value in init.items() if name not in ours})
        else:
            run = None
    if run is None:
        yield
        return
    exit_code = 1
    try:
        yield
        exit_code = 0
    except GeneratorExit:
        # The caller stopped reading from a generator, which is no failure.
        exit_code = 0
        raise
    except SystemExit as error:
        exit_code = _exit_code(error)
        raise
    finally:
        run.finish(exit_code=exit_code)


def _exit_code(error: SystemExit) -> int:
    """The exit code that Python makes of it: a text is printed, and is a failure."""
    return error.code if isinstance(error.code, int) else int(error.code is not None)
