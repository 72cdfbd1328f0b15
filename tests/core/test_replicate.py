"""The loop that writes the items of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    FileRef,
    Item,
    RunInfo,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.replicate import ReplicationResult, replicate
from mlflow_wandb_plugin.errors import SourceError
from tests.backfill.fakes import MemorySource, MemoryWriter, run_info

RUN = run_info()
LOSS = Series(("loss",), [1, 2, 3], [10, 20, 30], [0.5, 0.25, 0.125])
SPEED = Series(("speed",), [1, 2], [10, 20], [7.0, 8.0])
FILE = FileRef("notes.txt", Path("notes.txt"))
EARLY, LATE = Checkpoint("seg", 5), Checkpoint("seg", 9)


def written(items: list[Item | Exception], withhold: bool) -> MemoryWriter:
    """What a writer was told for a run of these items."""
    source, writer = MemorySource({"r1": items}), MemoryWriter("r1")
    replicate(source.read(RUN, {}), writer, withhold_last_checkpoint=withhold)
    return writer


def test_each_item_is_written_in_its_way_and_its_points_are_counted() -> None:
    """The writer sees the items in their order, then the run's end; progress hears of series."""
    writer, heard = MemoryWriter("r1"), list[int]()
    result = replicate([LOSS, FILE, SPEED, EARLY, RUN], writer, heard.append)
    assert writer.calls == [
        ("append", LOSS), ("add", FILE), ("append", SPEED), ("checkpoint", EARLY),
        ("update", RUN), ("finish", (RUN, True)),
    ]  # fmt: skip
    assert heard == [3, 2]
    assert result == ReplicationResult(points=5, info=RUN, unreadable=[])


def test_nobody_need_hear_of_progress() -> None:
    """Without a listener the points are counted all the same; a run of none has zero."""
    assert replicate([LOSS], MemoryWriter("r1")).points == 3
    assert replicate([FILE], MemoryWriter("r1")).points == 0


@pytest.mark.parametrize(
    ("info", "complete"),
    [
        (run_info(), True),
        (run_info(state="failed"), True),
        (run_info(state="running"), False),
        (run_info(missing=True), False),
    ],
)
def test_only_a_run_that_has_ended_and_misses_nothing_is_complete(
    info: RunInfo, complete: bool
) -> None:
    """The last description decides, whatever an earlier one said."""
    writer = MemoryWriter("r1")
    replicate([run_info(state="running"), info], writer)
    assert writer.calls[-1] == ("finish", (info, complete))


def test_a_run_without_a_description_is_not_finished() -> None:
    """Its items are written; what became of it is not known."""
    assert written([LOSS, EARLY], withhold=True).names == ["append"]
    assert written([LOSS, EARLY], withhold=False).names == ["append", "checkpoint"]


def test_what_could_not_be_read_is_reported_and_a_loss_is_recorded() -> None:
    """A range that a later read may find is told, but is no loss."""
    lost = UnreadableRange("log", 7, 20, "damaged")
    later = UnreadableRange("log", 27, 20, "not yet there", lost=False)
    writer = MemoryWriter("r1")
    result = replicate([lost, later, RUN], writer)
    assert result.unreadable == [lost, later]
    assert writer.calls[:-2] == [("lose", lost)]


def test_the_last_checkpoint_of_a_complete_run_is_left_to_its_end() -> None:
    """Those before it are written once more has arrived; a description alone is nothing more."""
    writer = written([LOSS, EARLY, SPEED, LATE, RUN], withhold=True)
    assert writer.calls == [
        ("append", LOSS), ("checkpoint", EARLY), ("append", SPEED), ("update", RUN),
        ("finish", (RUN, True)),
    ]  # fmt: skip


def test_the_last_checkpoint_of_an_incomplete_run_is_written() -> None:
    """Such a run's end says nothing about how far its log was carried."""
    info = run_info(state="running")
    writer = written([LOSS, LATE, info], withhold=True)
    assert writer.names == ["append", "update", "checkpoint", "finish"]
    assert writer.calls[2] == ("checkpoint", LATE)


def test_a_checkpoint_is_kept_when_reading_fails() -> None:
    """What was written before the error need not be written again; the run is not finished."""
    source, writer = MemorySource({"r1": [LOSS, LATE, SourceError("gone")]}), MemoryWriter("r1")
    with pytest.raises(SourceError, match="gone"):
        replicate(source.read(RUN, {}), writer, withhold_last_checkpoint=True)
    assert writer.calls == [("append", LOSS), ("checkpoint", LATE)]
