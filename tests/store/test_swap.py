"""The class swap: the object is still MLflow's, and its outermost calls are mirrored."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from collections.abc import Generator
from typing import Any

import mlflow
import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking._tracking_service import utils

from mlflow_wandb_plugin.store.swap import Changed, is_swapped, swapped
from tests.support.outboxes import read_journal


class Store:
    def outer(self, value: int, extra: int = 0) -> int:
        """MLflow's own text."""
        return self.inner(value + extra)

    def inner(self, value: int) -> int:
        if value < 0:
            raise ValueError("no")
        return value * 2

    async def later(self, value: int) -> int:
        return self.inner(value)


def noting(seen: list[Any]) -> Any:
    def operation(store: Any, value: int, extra: int = 0) -> Generator[Any, Any, None]:
        seen.append(("before", value))
        result = yield None
        seen.append(("after", result))

    return operation


def test_object_stays_what_it_was() -> None:
    """Class, name and documentation are MLflow's; a second swap changes nothing."""
    seen: list[Any] = []
    operations = {"outer": noting(seen), "missing": noting(seen)}
    store = swapped(Store(), operations)
    assert isinstance(store, Store)
    assert type(store).__name__ == "Store"
    assert type(store).outer.__doc__ == "MLflow's own text."
    assert not hasattr(store, "missing")
    assert type(swapped(store, operations)) is type(store)
    assert type(swapped(Store(), operations)) is type(store)


def test_both_halves_run_around_the_method() -> None:
    """The first part gets the arguments, and the second part the result."""
    seen: list[Any] = []
    assert swapped(Store(), {"outer": noting(seen)}).outer(2, extra=1) == 6
    assert seen == [("before", 2), ("after", 6)]


def test_inner_calls_are_part_of_the_outer_one() -> None:
    """Methods that a mirrored method calls itself are not mirrored again."""
    seen: list[Any] = []
    store = swapped(Store(), {"outer": noting(seen), "inner": noting(seen)})
    store.outer(1)
    assert seen == [("before", 1), ("after", 2)]
    store.inner(1)
    assert len(seen) == 4


def test_failed_method_is_not_mirrored() -> None:
    """The error reaches the caller, the second part does not run, the next call does."""
    seen: list[Any] = []
    store = swapped(Store(), {"inner": noting(seen)})
    with pytest.raises(ValueError, match="no"):
        store.inner(-1)
    assert seen == [("before", -1)]
    store.inner(1)
    assert seen[-1] == ("after", 2)


def test_changed_arguments_and_early_end() -> None:
    """An operation can change the arguments, or end before its ``yield``."""

    def adding(store: Any, value: int) -> Generator[Any, Any, None]:
        yield Changed((value + 100,), {})

    def silent(store: Any, value: int) -> Generator[Any, Any, None]:
        return
        yield

    assert swapped(Store(), {"inner": adding}).inner(1) == 202
    assert swapped(Store(), {"inner": silent}).inner(1) == 2


@pytest.mark.parametrize("when", ["before", "after", "arguments"])
def test_failing_operation_does_no_harm(
    when: str, fresh_process: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow's result is returned, and one warning names the method."""

    def failing(store: Any, value: int) -> Generator[Any, Any, None]:
        if when == "before":
            raise RuntimeError("oops")
        yield None
        raise RuntimeError("oops")

    def lacking(store: Any) -> Generator[Any, Any, None]:
        yield None

    store = swapped(Store(), {"inner": lacking if when == "arguments" else failing})
    with caplog.at_level(logging.WARNING):
        assert store.inner(1) == 2
        assert store.inner(2) == 4
    assert [record.message[:40] for record in caplog.records] == [
        "mlflow-wandb: inner reached MLflow, but n"[:40]
    ]


def test_coroutines_are_mirrored_when_they_end() -> None:
    """The second part runs when the coroutine has ended."""
    seen: list[Any] = []
    store = swapped(Store(), {"later": noting(seen), "inner": noting(seen)})
    assert asyncio.run(store.later(3)) == 6
    assert seen == [("before", 3), ("after", 6)]


def test_class_that_cannot_be_swapped(caplog: pytest.LogCaptureFixture, fresh_process: Any) -> None:
    """It works without a mirror, and there is a warning."""

    class Slotted:
        __slots__ = ()

        def inner(self, value: int) -> int:
            return value

    store = swapped(Slotted(), {"inner": noting([])})
    assert store.inner(1) == 1
    assert "Slotted cannot be mirrored" in caplog.text


def test_a_mirrored_store_is_pickled_where_the_plain_one_is(
    fresh_process: Any, server: str
) -> None:
    """A copy, in this process or another one, is mirrored as well and belongs to the same store."""
    mlflow.set_tracking_uri(f"wandb+{server}")
    store = utils._get_store()
    repository = get_artifact_repository("mlflow-artifacts:/0", server)
    twin = pickle.loads(pickle.dumps(store))
    for copied, original in ((twin, store), (copy.copy(repository), repository)):
        assert type(copied) is type(original)
        assert is_swapped(copied)
    run_id = twin.create_run("0", "me", 1, [], "pickled").info.run_id
    header = read_journal(fresh_process / f"{run_id}.journal").header
    assert header["tracking_uri"] == server
