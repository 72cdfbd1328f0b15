"""What a run's records say of the run itself."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_wandb_plugin.wandb_log.run_state import INTERRUPTED, RunFacts
from tests.support.records import config_record, exit_record, run_record


def facts(*records: Any) -> RunFacts:
    """One log with run, config and exit records."""
    run = RunFacts()
    run.begin("one")
    feed(run, *records)
    return run


def feed(run: RunFacts, *records: Any) -> None:
    for record in records:
        kind = record.WhichOneof("record_type")
        getattr(run, f"add_{kind}")(getattr(record, kind))


@pytest.mark.parametrize(
    ("records", "state"),
    [
        ([], "running"),
        ([exit_record(0)], "finished"),
        ([exit_record(1)], "failed"),
        ([exit_record(INTERRUPTED)], "killed"),
    ],
)
def test_how_a_run_ended(records: list[Any], state: str) -> None:
    """Its exit code decides; without one it has not ended."""
    run = facts(run_record(), *records)
    assert run.state() == state
    assert (run.info({}, {}, {}).ended_ms is None) is (state == "running")


def test_a_preempted_run() -> None:
    """`mark_preempting` and an exit code that is not 0."""
    run = facts(run_record())
    run.preempting = True
    feed(run, exit_record(1))
    assert run.state() == "preempted"
    run.begin("two")
    feed(run, run_record(), exit_record(1))
    assert run.state() == "failed"


def test_names_are_those_of_the_last_record_that_has_them() -> None:
    """An empty field does not erase what is known."""
    run = facts(run_record(display_name="one", notes="n", project="p"), run_record(project="p"))
    info = run.info({}, {}, {})
    assert (info.name, info.notes, info.project) == ("one", "n", "p")


def test_a_tag_can_be_removed_in_the_log_but_not_by_a_resumption() -> None:
    """A resumed run's first record without tags keeps the tags; a later one removes them."""
    run = facts(run_record(tags=("a", "b")), run_record(tags=("b",)))
    assert run.info({}, {}, {}).tags == ("b",)
    run.begin("two")
    feed(run, run_record())
    assert run.info({}, {}, {}).tags == ("b",)
    feed(run, run_record())
    assert run.info({}, {}, {}).tags == ()
    run.begin("three")
    feed(run, run_record(tags=("new",)))
    assert run.info({}, {}, {}).tags == ("new",)


def test_the_first_start_and_the_last_moment() -> None:
    """A resumed run began with its first log and ended with its last."""
    run = facts(run_record(start_ms=5_000), exit_record(0, 10))
    assert (run.started_ms, run.ended_ms) == (5_000, 15_000)
    run.begin("two")
    feed(run, run_record(start_ms=60_000))
    run.note_time(70_000)
    run.note_time(65_000)
    assert (run.started_ms, run.ended_ms) == (5_000, 70_000)
    assert run.info({}, {}, {}).segments == ("one", "two")


def test_params_are_the_first_values() -> None:
    """Changed, removed and nested config: the first values and the current ones."""
    run = facts(
        run_record(config={"a": 1, "n": {"x": 1, "y": {"z": 2}}, "empty": {}}),
        config_record({"a": 2, "late": 3, "n": {"x": 5}}),
        config_record({}, remove=["late", "never"]),
    )
    info = run.info({}, {}, {})
    assert info.first_config == {
        ("a",): 1, ("n", "x"): 1, ("n", "y", "z"): 2, ("empty",): {}, ("late",): 3,
    }  # fmt: skip
    assert info.config == {"a": 2, "n": {"x": 5}, "empty": {}}


def test_nested_updates_and_removals() -> None:
    """wandb names one leaf of a nested config by its path."""
    record = config_record({})
    record.config.update.add(nested_key=["a", "b"], value_json="1")
    record.config.update.add(nested_key=["c", "d"], value_json="2")
    removal = config_record({})
    removal.config.remove.add(nested_key=["c", "d"])
    removal.config.remove.add(nested_key=["a", "b", "too deep"])
    run = facts(run_record(config={"a": 7}), record, removal)
    assert run.info({}, {}, {}).config == {"a": {"b": 1}, "c": {}}


def test_later_records_do_not_change_an_earlier_info() -> None:
    """A RunInfo does not change when later records are added."""
    run = facts(run_record(config={"a": 1}))
    before = run.info({}, {}, {})
    feed(run, config_record({"b": 2}))
    assert before.config == {"a": 1}
    assert set(before.first_config) == {("a",)}
