"""Back-off: when to repeat, how long to wait, when to give up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import TargetError, TargetUnavailableError


def failing(times: int, retry_after_s: float | None = None) -> Callable[[], str]:
    """A call that is unavailable so often, then answers."""
    left = iter(range(times))

    def call() -> str:
        if next(left, None) is not None:
            raise TargetUnavailableError("down", retry_after_s)
        return "answer"

    return call


def test_a_call_that_works_is_made_once() -> None:
    """No trouble, no waiting, nobody told."""
    told: list[object] = []
    backoff = Backoff(wait=lambda _: pytest.fail("waited"), on_recovery=lambda: told.append(1))
    assert backoff.call(failing(0)) == "answer"
    assert told == []


def test_pauses_grow_to_a_limit() -> None:
    """Each pause is about twice the one before, spread by a quarter, 15 s at most."""
    pauses: list[float] = []
    backoff = Backoff(None, wait=lambda seconds: pauses.append(seconds) is None)
    assert backoff.call(failing(12)) == "answer"
    expected = [min(0.25 * 2**n, 15.0) for n in range(12)]
    assert all(0.75 * e <= pause <= 1.25 * e for pause, e in zip(pauses, expected, strict=True))


def test_the_target_may_ask_for_longer() -> None:
    """Retry-After is waited for, not less."""
    pauses: list[float] = []
    Backoff(None, wait=lambda seconds: pauses.append(seconds) is None).call(failing(2, 40.0))
    assert pauses == [40.0, 40.0]


def test_patience_runs_out() -> None:
    """The error is raised instead of a wait that would go beyond it."""
    with pytest.raises(TargetUnavailableError, match="down"):
        Backoff(1.0, wait=lambda _: True).call(failing(1, 5.0))


def test_a_long_wait_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """After five seconds: what is waited for, and how long yet. Shorter waits are not said."""
    Backoff(300.0, wait=lambda _: True).call(failing(2, 2.0))
    assert caplog.messages == []
    Backoff(300.0, wait=lambda _: True).call(failing(3, 20.0))
    (message,) = caplog.messages
    assert "down" in message
    assert "for 300 s more" in message


def test_waiting_may_become_pointless() -> None:
    """When the waiter says so, the error is raised at once."""
    with pytest.raises(TargetUnavailableError):
        Backoff(None, wait=lambda _: False).call(failing(1))


def test_a_refusal_is_not_repeated() -> None:
    """Only an unavailable target is asked again."""
    calls = []

    def refuse() -> None:
        calls.append(1)
        raise TargetError("no")

    with pytest.raises(TargetError):
        Backoff(None, wait=lambda _: True).call(refuse)
    assert calls == [1]


def test_trouble_and_recovery_are_told() -> None:
    """Whoever reports progress hears of each trouble and of the end of it."""
    told: list[str] = []
    backoff = Backoff(
        None,
        wait=lambda _: True,
        on_trouble=lambda error, pause: told.append(str(error)),
        on_recovery=lambda: told.append("well"),
    )
    backoff.call(failing(2))
    backoff.call(failing(0))
    assert told == ["down", "down", "well"]
