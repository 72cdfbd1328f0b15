"""The end of a run: whether wandb has uploaded everything."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from mlflow_wandb_plugin.live import tap


@pytest.mark.parametrize(
    ("raises", "timed_out", "uploaded"),
    [(None, False, True), (None, True, False), (SystemExit(), False, False)],
    ids=["complete", "timed out", "interrupted"],
)
def test_the_journal_notes_whether_everything_was_uploaded(
    monkeypatch: pytest.MonkeyPatch,
    raises: BaseException | None,
    timed_out: bool,
    uploaded: bool,
) -> None:
    """The journal is closed in any case, an error that wandb raises reaches the user, and a run
    whose journal is closed is not kept in memory."""
    noted: list[bool] = []
    run_tap = SimpleNamespace(
        before_finish=lambda: None, after_finish=noted.append, closed=raises is None
    )
    monkeypatch.setitem(tap._taps, "r1", run_tap)
    run = SimpleNamespace(settings=SimpleNamespace(run_id="r1"), _finish_timed_out=timed_out)

    def finish(_: object) -> None:
        if raises is not None:
            raise raises

    with contextlib.nullcontext() if raises is None else pytest.raises(SystemExit):
        tap._wrap_finish(finish)(run)
    assert noted == [uploaded]
    assert ("r1" in tap._taps) is not run_tap.closed


def test_wandb_has_the_attribute_of_a_finish_that_timed_out() -> None:
    """`_finish_timed_out` is there in versions that have the setting ``finish_timeout``."""
    import wandb
    from wandb.sdk import wandb_run

    with open(wandb_run.__file__, encoding="utf-8") as source:
        known = "self._finish_timed_out = " in source.read()
    assert known == ("finish_timeout" in wandb.Settings.model_fields)
