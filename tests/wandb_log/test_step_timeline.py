"""The x axes that the records of a log define, compared with an independent reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.step_axes import StepAxes
from mlflow_wandb_plugin.wandb_log.decoder import RunDecoder
from tests.support.records import history_record, partial_record, run_record

KEYS = ("a", "a/b", "a/c", "b", "s", "t")


def definition(
    name: str, step: str = "", overwrite: bool = False, expanded: bool = False
) -> Record:
    """What the SDK sends for `define_metric`; or what wandb-core makes of a glob."""
    record = Record()
    metric: Any = record.metric
    if name.endswith("*"):
        metric.glob_name = name
    else:
        metric.name = name
    metric.step_metric = step
    metric.options.defined = True
    metric.expanded_from_glob = expanded
    if overwrite:
        metric._control.overwrite = True
    return record


def decoded(*logs: list[Record]) -> RunInfo:
    decoder = RunDecoder()
    for number, records in enumerate(logs):
        decoder.begin(f"log {number}")
        for record in (run_record(), *records):
            decoder.feed(record.SerializeToString())
        decoder.end()
    for _ in decoder.take():
        pass
    return decoder.info()


def row(step: int, *keys: str) -> Record:
    return history_record(dict.fromkeys(keys, 1), step, 1.7e9 + step)


class Core:
    """What wandb-core does, written down anew; of several globs it takes the longest."""

    def __init__(self) -> None:
        self.exact: dict[str, str] = {}
        self.globs: dict[str, str] = {}

    def define(self, name: str, step: str, overwrite: bool) -> None:
        known = self.globs if name.endswith("*") else self.exact
        known[name] = step or ("" if overwrite else known.get(name, ""))

    def axis_of(self, key: str) -> str:
        """The axis of a key that is in the next row."""
        if key not in self.exact and not key.startswith("_"):
            best = ""
            for glob in self.globs:
                if key[: len(glob) - 1] == glob[:-1] and len(glob) > len(best):
                    best = glob
            if best:
                self.exact[key] = self.globs[best]
        return self.exact.get(key, "")


NAMES = st.sampled_from([*KEYS, "*", "a*", "a/*", "_*"])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("define"), NAMES, st.sampled_from(["", "s", "t"]), st.booleans()),
        st.tuples(st.just("log"), st.sets(st.sampled_from([*KEYS, "_x"]), min_size=1)),
    ),
    max_size=14,
)


@given(EVENTS, st.booleans())
def test_the_axes_of_all_rows_are_those_of_wandb_core(
    events: list[tuple[Any, ...]], from_journal: bool
) -> None:
    """Whatever is defined, before and between the rows, in a log as in a journal."""
    core, records, wanted, step = Core(), [], {}, 0
    for event in events:
        if event[0] == "define":
            core.define(*event[1:])
            records.append(definition(*event[1:]))
            continue
        for key in sorted(event[1]):
            wanted[key, step] = core.axis_of(key)
        logged: Mapping[Any, Any] = dict.fromkeys(event[1], 1)
        made = partial_record(logged) if from_journal else history_record(logged, step, 1.7e9)
        records.append(made)
        step += 1
    axes = StepAxes(decoded(records).step_definitions)
    assert {place: axes.metric(*place) for place in wanted} == wanted


def test_what_wandb_core_makes_of_a_glob_is_no_definition() -> None:
    """Its choice among several globs is by chance; here it is the longest."""
    info = decoded([
        definition("*", "s"), definition("a/*", "t"),
        definition("a/b", "s", expanded=True), row(0, "a/b"),
    ])  # fmt: skip
    assert [tuple(one) for one in info.step_definitions] == [(0, "*", "s"), (0, "a/*", "t")]


def test_definitions_of_an_earlier_log_hold_in_the_next_one() -> None:
    """A later one without a step metric takes none away, unless it overwrites."""
    first = [definition("a", "s"), definition("b", "s"), row(0, "a")]
    second = [row(1, "a"), definition("a"), definition("b", overwrite=True), row(2, "a")]
    info = decoded(first, second)
    axes = StepAxes(info.step_definitions)
    assert [axes.metric("a", step) for step in (0, 1, 2)] == ["s", "s", "s"]
    assert [axes.metric("b", step) for step in (0, 1, 2)] == ["s", "s", ""]


@pytest.mark.parametrize("commit", [True, False])
def test_an_unfinished_row_has_the_axes_of_its_end(commit: bool) -> None:
    """wandb-core applies definitions when a row ends."""
    records = [partial_record({"a": 1}, commit=commit), definition("a", "s")]
    info = decoded([*records, partial_record({"a": 2}, step=1)])
    assert StepAxes(info.step_definitions).metric("a", 0) == ("" if commit else "s")
