"""The end of a run: whether wandb came to the end of its own."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from mlflow_wandb_plugin.live import tap


@pytest.mark.parametrize(
    ("raises", "timed_out", "uploaded"),
    [(None, False, True), (None, True, False), (SystemExit(), False, False)],
    ids=["to the end", "given up", "interrupted"],
)
def test_the_journal_is_told_whether_all_was_uploaded(
    monkeypatch: pytest.MonkeyPatch,
    raises: BaseException | None,
    timed_out: bool,
    uploaded: bool,
) -> None:
    """It is closed all the same, and what wandb raises reaches the user."""
    told: list[bool] = []
    ours = SimpleNamespace(before_finish=lambda: None, finished=told.append)
    monkeypatch.setitem(tap._taps, "r1", ours)
    run = SimpleNamespace(settings=SimpleNamespace(run_id="r1"), _finish_timed_out=timed_out)

    def finish(_: object) -> None:
        if raises is not None:
            raise raises

    with contextlib.nullcontext() if raises is None else pytest.raises(SystemExit):
        tap._finishing(finish)(run)
    assert told == [uploaded]


def test_wandb_says_whether_it_gave_up() -> None:
    """The attribute is wandb's own, and came with the setting that lets it give up: without it a
    run that was given up would count as uploaded."""
    import wandb
    from wandb.sdk import wandb_run

    with open(wandb_run.__file__, encoding="utf-8") as source:
        known = "self._finish_timed_out = " in source.read()
    assert known == ("finish_timeout" in wandb.Settings.model_fields)
