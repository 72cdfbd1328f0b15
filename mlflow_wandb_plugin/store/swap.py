"""Replace the class of an MLflow store or repository by a subclass whose methods are mirrored.

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

from mlflow_wandb_plugin.core.messages import log_once
from mlflow_wandb_plugin.store.mirrored_runs import current_mirror


class Changed(NamedTuple):
    """Arguments that an operation yields for MLflow's method, in place of the caller's."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Steps: TypeAlias = Generator["Changed | None", Any, None]
Operation: TypeAlias = Callable[..., Steps]
"""How a method is mirrored: a generator function with the method's parameters.

The part before its ``yield`` runs before MLflow's method. The ``yield`` returns the method's
result, and the part behind it runs unless the method failed. A generator that ends before its
``yield`` mirrors nothing. Its exceptions are shown once and do not reach the caller."""

_inside: ContextVar[bool] = ContextVar("mlflow_wandb_inside", default=False)
"""A mirrored method is running: methods that it calls itself are part of it."""

_classes: dict[tuple[type, tuple[tuple[str, Operation], ...]], type] = {}


def by_name(*operations: Operation) -> dict[str, Operation]:
    """Operations by the name of the method that they mirror, which is their own name."""
    return {operation.__name__: operation for operation in operations}


def is_swapped(instance: Any) -> bool:
    return type(instance) in _classes.values()


def swapped(instance: Any, operations: Mapping[str, Operation]) -> Any:
    """``instance``, its class replaced by a mirrored subclass."""
    if is_swapped(instance):
        return instance
    inner = type(instance)
    try:
        instance.__class__ = _subclass(inner, operations)
    except TypeError as error:
        log_once(f"{inner.__name__} cannot be mirrored into W&B: {error}")
    return instance


def _subclass(inner: type, operations: Mapping[str, Operation]) -> type:
    key = (inner, tuple(operations.items()))
    if key not in _classes:
        body = {name: getattr(inner, name) for name in ("__module__", "__qualname__", "__doc__")}
        body["__reduce_ex__"] = _reduce(inner, key[1])
        for name, operation in operations.items():
            if hasattr(inner, name):
                body[name] = _mirrored(getattr(inner, name), name, operation)
        _classes[key] = type(inner)(inner.__name__, (inner,), body)
    return _classes[key]


def _reduce(inner: type, operations: tuple[tuple[str, Operation], ...]) -> Callable[..., Any]:
    """``__reduce_ex__`` of a mirrored subclass, which pickle cannot find by its name."""

    untyped: Any = inner

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        reduced: Any = untyped.__reduce_ex__(self, protocol)
        if isinstance(reduced, tuple) and reduced[1][:1] == (type(self),):
            named = current_mirror().stores.named(self)
            return (_rebuild, (inner, operations, named, *reduced[1][1:]), *reduced[2:])
        return reduced

    return __reduce_ex__


def _rebuild(
    inner: type, operations: tuple[tuple[str, Operation], ...], named: Any, *args: Any
) -> Any:
    """A mirrored instance, to which pickle or copy then gives its state."""
    subclass: Any = _subclass(inner, dict(operations))
    instance = subclass.__new__(subclass, *args)
    current_mirror().stores.name(instance, named)
    return instance


def _mirrored(method: Callable[..., Any], name: str, operation: Operation) -> Callable[..., Any]:
    """The overriding method: MLflow's own between the two parts of the operation."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _inside.get():
            return method(self, *args, **kwargs)
        with _MirroredCall(operation, name, self, args, kwargs) as mirrored:
            mirrored.result = method(self, *mirrored.args, **mirrored.kwargs)
        return mirrored.result

    @functools.wraps(method)
    async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _inside.get():
            return await method(self, *args, **kwargs)
        with _MirroredCall(operation, name, self, args, kwargs) as mirrored:
            mirrored.result = await method(self, *mirrored.args, **mirrored.kwargs)
        return mirrored.result

    return call_async if inspect.iscoroutinefunction(method) else call


class _MirroredCall:
    """One call of a mirrored method: runs the operation's first part, and at the end its second.

    Attributes:
        args, kwargs: arguments for MLflow's method.
        result: what it returned; to be set by the caller.
    """

    def __init__(
        self, operation: Operation, name: str, instance: Any, args: Any, kwargs: Any
    ) -> None:
        self.args, self.kwargs = args, kwargs
        self.result: Any = None
        self._operation = operation
        self._name = name
        self._instance = instance
        self._subject = next(iter(args), None)
        self._steps: Steps | None = None

    def __enter__(self) -> _MirroredCall:
        self._token = _inside.set(True)
        try:
            self._steps = self._operation(self._instance, *self.args, **self.kwargs)
            changed = next(self._steps)
            if changed is not None:
                self.args, self.kwargs = changed
        except StopIteration:
            self._steps = None
        except Exception as error:
            self._steps = None
            current_mirror().record_failure(self._name, error, self._subject)
        except BaseException:
            _inside.reset(self._token)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._steps is not None and kind is not None:
                # The method failed: the generator ends at its `yield`, and may clean up there.
                with contextlib.suppress(Exception):
                    self._steps.close()
            elif self._steps is not None:
                self._steps.send(self.result)
        except StopIteration:
            pass
        except Exception as error:
            current_mirror().record_failure(self._name, error, self._subject)
        finally:
            _inside.reset(self._token)
