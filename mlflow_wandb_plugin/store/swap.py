"""Turns an object of MLflow's into one of a subclass whose writing methods also tell the mirror.

A subclass and not a proxy: MLflow asks for classes, engines and private attributes of its stores
in many places, and AbstractStore has a default for every method.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

from mlflow_wandb_plugin.store.log_messages import warn_once
from mlflow_wandb_plugin.store.mirrored_runs import of_this_process


class Changed(NamedTuple):
    """What an operation may yield: MLflow's method is called with these arguments instead."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Operation: TypeAlias = Callable[..., Generator["Changed | None", Any, None]]
"""How a method is mirrored. A generator that gets the object and the arguments: what is before its
``yield`` is done before MLflow's own method, which gives the yield's value, and what is behind it
after it, unless the method failed. One that ends before its ``yield`` has nothing to
say. Whatever it raises is said once and does no harm."""

_inside: ContextVar[bool] = ContextVar("mlflow_wandb_inside", default=False)
"""A mirrored method is running: those that it calls itself are part of it."""

_classes: dict[tuple[type, int], type] = {}


def swapped(instance: Any, operations: Mapping[str, Operation]) -> Any:
    """``instance``, its class replaced by a mirrored subclass of it."""
    inner = type(instance)
    if hasattr(inner, "_mlflow_wandb_inner"):
        return instance
    try:
        instance.__class__ = _subclass(inner, operations)
    except TypeError as error:
        warn_once(f"{inner.__name__} cannot be mirrored into W&B: {error}")
    return instance


def _subclass(inner: type, operations: Mapping[str, Operation]) -> type:
    key = (inner, id(operations))
    if key not in _classes:
        body: dict[str, Any] = {
            name: _mirrored(getattr(inner, name), name, operation)
            for name, operation in operations.items()
            if hasattr(inner, name)
        }
        for name in ("__module__", "__qualname__", "__doc__"):
            body[name] = getattr(inner, name)
        body["_mlflow_wandb_inner"] = inner
        _classes[key] = type(inner)(inner.__name__, (inner,), body)
    return _classes[key]


def _mirrored(method: Callable[..., Any], name: str, operation: Operation) -> Callable[..., Any]:
    """The overriding method: MLflow's own, with the operation's two halves around it."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _inside.get():
            return method(self, *args, **kwargs)
        token = _inside.set(True)
        try:
            steps, given = _begin(operation, name, self, args, kwargs)
            try:
                result = method(self, *given.args, **given.kwargs)
            except BaseException:
                _give_up(steps)
                raise
            _end(steps, name, result, args)
        finally:
            _inside.reset(token)
        return result

    @functools.wraps(method)
    async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _inside.get():
            return await method(self, *args, **kwargs)
        token = _inside.set(True)
        try:
            steps, given = _begin(operation, name, self, args, kwargs)
            try:
                result = await method(self, *given.args, **given.kwargs)
            except BaseException:
                _give_up(steps)
                raise
            _end(steps, name, result, args)
        finally:
            _inside.reset(token)
        return result

    return call_async if inspect.iscoroutinefunction(method) else call


def _begin(
    operation: Operation, name: str, self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Generator[Changed | None, Any, None] | None, Changed]:
    given = Changed(args, kwargs)
    try:
        steps = operation(self, *args, **kwargs)
        return steps, next(steps) or given
    except StopIteration:
        return None, given
    except Exception as error:
        of_this_process().failed(name, error, next(iter(args), None))
        return None, given


def _give_up(steps: Generator[Changed | None, Any, None] | None) -> None:
    """The method failed: the operation ends at its ``yield``, where it may clear up."""
    if steps is not None:
        with contextlib.suppress(Exception):
            steps.close()


def _end(
    steps: Generator[Changed | None, Any, None] | None,
    name: str,
    result: Any,
    args: tuple[Any, ...],
) -> None:
    if steps is None:
        return
    try:
        steps.send(result)
    except StopIteration:
        pass
    except Exception as error:
        of_this_process().failed(name, error, next(iter(args), None))
