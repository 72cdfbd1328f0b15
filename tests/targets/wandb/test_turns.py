"""Threads do a part of their work in the order in which they were announced."""

from __future__ import annotations

import threading

from mlflow_wandb_plugin.targets.wandb.turns import Turns


def test_a_turn_waits_for_earlier_ones_alone() -> None:
    """The third begins when the first two have ended, in whatever order."""
    turns, done = Turns(), []
    for key in ("a", "b", "c"):
        turns.begin(key)

    def last() -> None:
        turns.wait("c")
        done.append("c")

    thread = threading.Thread(target=last)
    thread.start()
    for key in ("b", "a"):
        assert done == []
        turns.end(key)
    thread.join(60)
    assert done == ["c"]


def test_what_has_no_turn_does_not_wait() -> None:
    """Another part of the program writes a run without announcing it."""
    turns = Turns()
    turns.begin("a")
    turns.wait("never announced")
