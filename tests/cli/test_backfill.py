"""The command ``backfill`` itself: how its rounds end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from mlflow_wandb_plugin.cli.backfill import _rounds

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Keep this process's signal handlers."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def test_an_interruption_ends_the_round(handlers: None) -> None:
    """As an exception where it comes, like Ctrl-C's."""
    rounds = _rounds(0)
    next(rounds)
    next(rounds)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_interruption_in_a_finalizer_ends_the_rounds(
    handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python prints and drops the exception that is raised there: no other round begins."""
    dropped: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: dropped.append(found.exc_type))

    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    rounds = _rounds(0)
    next(rounds)
    Finalized()
    assert dropped == [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        next(rounds)
