"""Processes that create the same run at once end up with one run, in every order of requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.targets.mlflow import concurrent_creation
from mlflow_wandb_plugin.targets.mlflow.client import Client, RefusedError
from mlflow_wandb_plugin.targets.mlflow.concurrent_creation import PENDING, find_settled, keep_one


@dataclass
class Store:
    """The part of MLflow that creating runs needs; each call waits for its turn."""

    turn: Callable[[], None]
    runs: dict[str, Any] = field(default_factory=dict)

    delete_tag = Client.delete_tag

    @property
    def client(self) -> Any:
        return SimpleNamespace(delete_tag=self._delete_tag, delete_run=self.runs.pop)

    mlflow = client

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        self.turn()
        return function(*args)

    def create(self, run_id: str) -> Any:
        data = SimpleNamespace(tags={identity.CLAIM: PENDING})
        run = SimpleNamespace(info=SimpleNamespace(run_id=run_id), data=data)
        self.runs[run_id] = run
        return run

    def _delete_tag(self, run_id: str, key: str) -> None:
        if self.runs[run_id].data.tags.pop(key, None) is None:
            raise RefusedError("No tag of that name", "RESOURCE_DOES_NOT_EXIST")

    def seen(self) -> list[Any]:
        """A copy of the runs, like an answer of a server."""
        return [
            SimpleNamespace(info=run.info, data=SimpleNamespace(tags=dict(run.data.tags)))
            for run in self.runs.values()
        ]


def play(ids: list[str], order: Iterator[int]) -> tuple[Store, dict[str, str]]:
    """Create runs in threads, whose calls take place in the order of the numbers in ``order``."""
    ready = [threading.Semaphore(0) for _ in ids]
    done = threading.Semaphore(0)
    mine = threading.local()
    kept: dict[str, str] = {}

    def turn() -> None:
        done.release()
        ready[mine.number].acquire()

    store = Store(turn)

    def create(number: int) -> None:
        mine.number = number
        ready[number].acquire()
        run = store.call(store.create, ids[number])
        winner = keep_one(store, run, lambda: store.call(store.seen))  # type: ignore[arg-type]
        assert winner is not None
        kept[ids[number]] = winner.info.run_id
        over.add(number)
        done.release()

    over: set[int] = set()
    threads = [threading.Thread(target=create, args=(n,), daemon=True) for n in range(len(ids))]
    for thread in threads:
        thread.start()
    for _ in range(500):
        waiting = [number for number in range(len(ids)) if number not in over]
        if not waiting:
            break
        number = waiting[next(order, 0) % len(waiting)] if waiting else 0
        ready[number].release()
        assert done.acquire(timeout=5)
    for thread in threads:
        thread.join(5)
    return store, kept


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrent_creation.time, "sleep", lambda _: None)


@settings(max_examples=150)
@given(
    ids=st.permutations(["a", "b", "c"]),
    order=st.lists(st.integers(0, 5), min_size=30, max_size=60),
)
def test_one_run_is_left_and_all_know_which(ids: list[str], order: list[int]) -> None:
    """Three creators keep the same run in any order of their requests."""

    def endless() -> Iterator[int]:
        yield from order
        while True:
            yield from range(3)

    store, kept = play(list(ids), endless())
    assert len(store.runs) == 1
    assert set(kept.values()) == set(store.runs)
    assert set(kept) == set(ids)


@pytest.mark.parametrize("own", ["b", "A"])
def test_a_creator_that_is_gone_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    """A run that stays pending is settled by another creator, whichever id is lower."""
    monkeypatch.setattr(concurrent_creation, "DECISION_S", 0.0)
    store = Store(lambda: None)
    store.create("a")
    ours = store.create(own)
    winner = keep_one(store, ours, store.seen)  # type: ignore[arg-type]
    assert winner is not None
    assert winner.info.run_id == "a"
    assert list(store.runs) == ["a"]
    assert not concurrent_creation.is_pending(store.runs["a"])


def test_a_run_whose_creator_is_gone_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search settles the run that stayed pending and returns it."""
    monkeypatch.setattr(concurrent_creation, "DECISION_S", 0.0)
    store = Store(lambda: None)
    store.create("a")
    found = find_settled(store, store.seen)  # type: ignore[arg-type]
    assert found is not None
    assert [found.info.run_id] == [run.info.run_id for run in store.seen()] == ["a"]
    assert not concurrent_creation.is_pending(store.runs["a"])
