"""The one loop: what is written in which order, and what one run's trouble means for others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.backfill.engines.threads import backfill
from mlflow_wandb_plugin.backfill.options import BackfillOptions
from mlflow_wandb_plugin.backfill.outcome import (
    Listener,
    Outcome,
)
from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    FileRef,
    Item,
    RowObjects,
    Selection,
    Series,
    StepDefinition,
    UnreadableRange,
)
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.errors import SourceError, TargetUnavailableError, UsageError
from tests.backfill.fakes import (
    MemorySource,
    MemoryTarget,
    MemoryWriter,
    complete_twin,
    run_info,
)

SERIES = Series(("a",), (0, 1), (10, 20), (1.0, 2.0))
MARK = Checkpoint("seg", 50)


def outcomes(
    source: MemorySource, target: MemoryTarget, options: BackfillOptions | None = None
) -> dict[str, Outcome]:
    found = backfill(source, target, Selection(), options)
    return {outcome.run.run_id: outcome for outcome in found}


# -- one run ------------------------------------------------------------------------------------


def test_items_are_written_in_their_order_and_the_end_comes_last() -> None:
    """Points before their mark, completion behind everything."""
    writer, info = MemoryWriter("m"), run_info()
    row = RowObjects(1, 10, {("t",): "x"})
    seen: list[int] = []
    carried = replicate([info, SERIES, row, MARK, SERIES, info], writer, seen.append)
    assert writer.names == [
        "update", "append", "add", "checkpoint", "append", "update", "finish",
    ]  # fmt: skip
    assert writer.calls[-1] == ("finish", (info, True))
    assert (carried.points, carried.info, seen) == (4, info, [2, 2])


@pytest.mark.parametrize("fields", [{"state": "running"}, {"missing": True}])
def test_a_run_that_goes_on_or_lacks_a_part_is_not_complete(fields: dict[str, object]) -> None:
    """It is written as far as it goes."""
    writer = MemoryWriter("m")
    replicate([SERIES, run_info(**fields)], writer)
    name, (_, complete) = writer.calls[-1]
    assert (name, complete) == ("finish", False)


@pytest.mark.parametrize(
    ("state", "names"),
    [
        ("finished", ["append", "checkpoint", "append", "update", "finish"]),
        ("running", ["append", "checkpoint", "append", "update", "checkpoint", "finish"]),
    ],
)
def test_the_last_mark_goes_with_the_end(state: Any, names: list[str]) -> None:
    """Where nothing more can come, the end says that all is carried; marks before it are kept, and
    that of a run that goes on."""
    writer = MemoryWriter("r")
    replicate(
        [SERIES, MARK, SERIES, MARK, run_info(state=state)], writer, withhold_last_checkpoint=True
    )
    assert writer.names == names


def test_a_source_that_breaks_finishes_nothing() -> None:
    """What was written stays, nothing is marked as done, the writer is let go."""
    source = MemorySource({"r1": [SERIES, MARK, SourceError("torn"), run_info()]})
    target = MemoryTarget()
    outcome = outcomes(source, target)["r1"]
    assert (outcome.action, outcome.reason) == ("failed", "torn")
    assert target.writers["r1"].names == ["append", "checkpoint", "close"]


def test_damage_is_told_in_the_outcome() -> None:
    """A run with an unreadable part is carried, and the part is named."""
    unreadable = UnreadableRange("x.wandb", 5, 7, "torn")
    outcome = outcomes(MemorySource({"r1": [SERIES, unreadable, run_info()]}), MemoryTarget())["r1"]
    assert (outcome.action, outcome.points, outcome.unreadable) == ("migrated", 2, (unreadable,))


# -- many runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        TargetUnavailableError("down"),
        SourceError("gone"),
        KeyError("a mistake of ours"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_one_runs_trouble_is_its_own(error: Exception, workers: int) -> None:
    """Whatever happens to one, the others arrive, and the error stands in its outcome."""
    runs: dict[str, list[Item | Exception]] = {
        f"r{number}": [SERIES, run_info(f"r{number}")] for number in range(12)
    }
    runs["r5"] = [error]
    target = MemoryTarget()
    target.trouble["r7"] = error
    found = outcomes(MemorySource(runs), target, BackfillOptions(workers=workers))
    failed = {run_id for run_id, outcome in found.items() if outcome.action == "failed"}
    assert failed == {"r5", "r7"}
    assert len(found) == 12
    assert all(found[run_id].reason for run_id in failed)
    assert all(writer.names[-1] == "close" for writer in target.writers.values())


def test_what_the_target_has_is_skipped_and_holes_are_filled() -> None:
    """By verdict; a run with holes is read from where it stands."""
    twins = {
        "dual": complete_twin("dual"),
        "done": complete_twin(),
        "foreign": complete_twin("", foreign=True),
        "holes": complete_twin("dual", state="live", position={"seg": 7}),
    }
    source = MemorySource({name: [SERIES, run_info(name)] for name in (*twins, "new")})
    target = MemoryTarget(twins)
    found = outcomes(source, target)
    assert {name: (o.verdict, o.action) for name, o in found.items()} == {
        "dual": ("dual-written", "skipped"),
        "done": ("existing", "skipped"),
        "foreign": ("foreign", "skipped"),
        "holes": ("partial", "repaired"),
        "new": ("new", "migrated"),
    }
    assert source.reads == [("holes", {"seg": 7}), ("new", {})]
    assert target.writers["holes"].twin is twins["holes"]


def test_existing_runs_may_be_updated_or_refused() -> None:
    """As the options say."""
    source = MemorySource({"r1": [run_info()]})
    target = MemoryTarget({"r1": complete_twin()})
    assert outcomes(source, target, BackfillOptions(existing="fail"))["r1"].action == "failed"
    assert outcomes(source, target, BackfillOptions(existing="update"))["r1"].action == "repaired"


def test_a_listener_hears_of_points_and_runs() -> None:
    """Also of runs that fail."""
    heard: list[object] = []

    class Ears(Listener):
        def points(self, count: int) -> None:
            heard.append(count)

        def run_done(self, outcome: Outcome) -> None:
            heard.append(outcome.action)

    runs: dict[str, list[Item | Exception]] = {"a": [SERIES, run_info("a")], "b": [OSError("x")]}
    list(backfill(MemorySource(runs), MemoryTarget(), Selection(), listener=Ears()))
    assert heard == [2, "migrated", "failed"]


# -- options ------------------------------------------------------------------------------------


def test_metrics_and_artifacts_can_be_left_out() -> None:
    """Numbers and other values alike, by the full dotted key."""
    options = BackfillOptions(include_metrics=("^val",), exclude_metrics=("secret",))
    items: list[Item] = [
        Series(("val", "loss"), (), (), ()),
        Series(("train",), (), (), ()),
        Series(("val", "secret"), (), (), ()),
        RowObjects(1, 1, {("val", "t"): 1, ("other",): 2}),
        RowObjects(2, 2, {("other",): 2}),
        FileRef("a", Path("a")),
    ]
    kept = list(options.wanted(items))
    assert kept == [items[0], RowObjects(1, 1, {("val", "t"): 1}), items[5]]


def test_a_step_metric_is_not_left_out() -> None:
    """Other metrics' steps are its values: as the listing says, or what is read of the run."""
    options = BackfillOptions(include_metrics=("loss",), exclude_metrics=("epoch",))
    info = replace(run_info("a"), step_definitions=(StepDefinition(0, "loss", "n.epoch"),))
    series = [Series((*path,), (), (), ()) for path in (["loss"], ["n", "epoch"], ["other"])]
    assert list(options.wanted(series, info.step_definitions)) == series[:2]
    assert list(options.wanted([info, *series]))[1:] == series[:2]
    assert list(options.wanted(series)) == series[:1]


def test_a_pattern_that_is_none_is_the_users_error() -> None:
    """Said before anything is read."""
    with pytest.raises(UsageError, match="is not a regular expression"):
        BackfillOptions(exclude_metrics=("[",))
