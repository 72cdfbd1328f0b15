"""The limiter follows the server's answers."""

from __future__ import annotations

import threading
import time

import pytest

from mlflow_wandb_plugin.core.limiter import Limiter
from mlflow_wandb_plugin.errors import SourceError, SourceUnavailableError


def refuse(limiter: Limiter, retry_after_s: float | None = None) -> None:
    with pytest.raises(SourceUnavailableError):
        with limiter.turn():
            raise SourceUnavailableError("busy", retry_after_s)


def test_answers_raise_the_limit_up_to_its_most() -> None:
    """About as many answers as there are places add one place, never more than allowed."""
    limiter = Limiter(start=2, most=5)
    for _ in range(3):
        with limiter.turn():
            pass
    assert limiter.limit == 3
    for _ in range(100):
        with limiter.turn():
            pass
    assert limiter.limit == 5


def test_a_refusal_halves_the_limit_but_never_to_nothing() -> None:
    """Refusals one after another go down to one request at a time."""
    limiter = Limiter(start=8)
    refuse(limiter)
    assert limiter.limit == 4
    for _ in range(10):
        refuse(limiter)
    assert limiter.limit == 1


def test_requests_refused_together_halve_it_once() -> None:
    """Eight requests under way at one refusal are one piece of news, not eight."""
    limiter = Limiter(start=8)
    batched = threading.Barrier(8)

    def request() -> None:
        try:
            with limiter.turn():
                batched.wait(10)
                raise SourceUnavailableError("busy")
        except SourceUnavailableError:
            pass

    threads = [threading.Thread(target=request) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limiter.limit == 4


def test_a_mistake_of_ours_says_nothing_about_the_server() -> None:
    """What was refused for good neither raises nor lowers the limit, and gives its place back."""
    limiter = Limiter(start=1)
    for _ in range(3):
        with pytest.raises(SourceError):
            with limiter.turn():
                raise SourceError("no such run")
    assert limiter.limit == 1


def test_everybody_waits_as_long_as_one_was_told_to() -> None:
    """A Retry-After holds up the next request, too."""
    limiter = Limiter()
    refuse(limiter, retry_after_s=0.3)
    began = time.monotonic()
    with limiter.turn():
        assert time.monotonic() - began >= 0.29


def test_no_more_requests_than_the_limit_are_under_way() -> None:
    """Of twenty threads three at a time have their turn."""
    limiter = Limiter(start=3, most=3)
    lock, now, most = threading.Lock(), [0], [0]

    def request() -> None:
        with limiter.turn():
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.01)
            with lock:
                now[0] -= 1

    threads = [threading.Thread(target=request) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 3
