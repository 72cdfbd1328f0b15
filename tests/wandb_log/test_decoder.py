"""Records in, model out: the SDK's traffic and wandb-core's file must tell the same run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, note, settings

from mlflow_wandb_plugin.core.model import FileRef, Item, RowObjects, Series
from mlflow_wandb_plugin.journal import frames as journal
from mlflow_wandb_plugin.journal import reader
from mlflow_wandb_plugin.wandb_log.decoder import RunDecoder
from mlflow_wandb_plugin.wandb_log.framing import LogReader
from mlflow_wandb_plugin.wandb_log.local_files import LocalFiles
from tests.support import core_says
from tests.support.core_says import comparable
from tests.support.health_checks import WITH_FIXTURE
from tests.support.logging_child import LoggingChild
from tests.support.programs import programs
from tests.support.records import (
    exit_record,
    history_record,
    partial_record,
    run_record,
    summary_record,
)

real = settings(max_examples=25, suppress_health_check=WITH_FIXTURE)


class Decoded:
    """A log decoded in blocks of ``block`` records."""

    def __init__(self, payloads: list[bytes], block: int = 7) -> None:
        self.decoder = RunDecoder()
        self.decoder.begin("log")
        self.items: list[Item] = []
        for number, payload in enumerate(payloads):
            self.decoder.feed(payload)
            if number % block == 0:
                self.items += self.decoder.take()
        self.decoder.end()
        self.items += self.decoder.take()
        self.info = self.decoder.info()

    @property
    def points(self) -> list[tuple[Any, ...]]:
        """(key, step, ms, value), sorted."""
        found = [
            (series.key, step, at, comparable(value))
            for series in self.items
            if isinstance(series, Series) and series.kind == "history"
            for step, at, value in zip(
                series.steps, series.timestamps_ms, series.values, strict=True
            )
        ]
        return sorted(found, key=str)

    @property
    def objects(self) -> list[tuple[Any, ...]]:
        return [
            (row.step, row.timestamp_ms, comparable(dict(row.values)))
            for row in self.items
            if isinstance(row, RowObjects)
        ]


def of_journal(path: Path) -> Decoded:
    frames = reader.JournalReader(path).read()
    return Decoded([frame.payload for frame in frames if frame.kind == journal.RECORD])


def of_file(path: Path) -> Decoded:
    return Decoded([frame.payload for frame in LogReader(path).read()])


def numbers_that_core_wrote(path: Path) -> list[tuple[Any, ...]]:
    """Every number and bool of every row, except below typed values, straight from the file."""
    found = []
    for step, row in core_says.rows(path):
        at = int(row.pop(("_timestamp",)) * 1000)
        typed = [key[:-1] for key, value in row.items() if key[-1] == "_type"]
        for key, value in row.items():
            number = {"<True>": 1.0, "<False>": 0.0, "<nan>": "<nan>"}.get(str(value), value)
            text = isinstance(value, str) and not value.startswith("<")
            if any(key[: len(owner)] == owner for owner in typed):
                continue
            if isinstance(number, float) or (number == "<nan>" and not text):
                found.append((key, step, at, number))
    return sorted(found, key=str)


def users_config(decoded: Decoded) -> Any:
    """Without what wandb-core adds for itself."""
    return comparable({k: v for k, v in decoded.info.config.items() if k != "_wandb"})


@real
@given(lines=programs())
@example(lines=["run.define_metric('a', summary='mean')", "run.log({'a': None})"])
@example(lines=["run.define_metric('b', summary='none')", "run.summary['b'] = 0"])
def test_journal_and_file_tell_the_same_run(sdk: LoggingChild, lines: list[str]) -> None:
    """Points, other values, config and summary of a journal equal those of wandb-core's file."""
    recorded = sdk.run(lines)
    note(f"errors: {recorded.errors}")
    live, later = of_journal(recorded.journal), of_file(recorded.wandb_file)
    assert later.points == numbers_that_core_wrote(recorded.wandb_file)
    assert live.points == later.points
    assert live.objects == later.objects
    assert users_config(live) == users_config(later)
    assert comparable(live.info.last) == comparable(later.info.last)
    wanted = core_says.summary(recorded.wandb_file)
    assert comparable(dict(later.info.summary)) == wanted
    assert comparable(dict(live.info.summary)) == wanted


def bytes_of(*records: Any) -> list[bytes]:
    return [record.SerializeToString() for record in records]


@pytest.mark.parametrize("block", [1, 2, 100])
def test_a_nested_key_beside_a_typed_value_is_a_metric(block: int) -> None:
    """Numbers below a W&B typed value belong to it; numbers below a plain dict are metrics."""
    typed = {"_type": "image-file", "width": 3, "path": "media/x.png"}
    row = {("t", name): value for name, value in typed.items()} | {("n", "width"): 4}
    decoded = Decoded(bytes_of(run_record(), history_record(row, 2, 10.0)), block)
    assert decoded.points == [(("n", "width"), 2, 10_000, 4.0)]
    assert decoded.objects == [(2, 10_000, {("t",): comparable(typed)})]


def test_a_dict_whose_type_is_a_number_is_no_typed_value() -> None:
    """A user's own key called ``_type`` with a number in it is a metric like its neighbours."""
    row = {("d", "_type"): 1, ("d", "x"): 2}
    decoded = Decoded(bytes_of(history_record(row, 0, 1.0)))
    assert [point[0] for point in decoded.points] == [("d", "_type"), ("d", "x")]


def test_new_keys_of_a_row_come_in_one_order_whatever_core_wrote() -> None:
    """The order of two colliding names does not depend on Go's random map order."""
    orders = []
    for keys in (["recall_5", "recall@5", "a"], ["a", "recall@5", "recall_5"]):
        records = [history_record({"z": 0}, 0, 1.0), history_record(dict.fromkeys(keys, 1), 1, 2.0)]
        items = Decoded(bytes_of(*records), block=100).items
        orders.append([series.key[0] for series in items if isinstance(series, Series)])
    assert orders[0] == orders[1] == ["z", "a", "recall@5", "recall_5"]


def test_blocks_do_not_change_what_a_run_is() -> None:
    """Taken after every record or at the end: the same points, summary and last values."""
    records = bytes_of(
        run_record(),
        *(partial_record({"a": n, "b": math.nan if n == 3 else n / 3}) for n in range(9)),
        summary_record({"best": 7}),
        exit_record(),
    )
    small, large = Decoded(records, block=1), Decoded(records, block=10_000)
    assert small.points == large.points
    assert len(small.points) == 18
    assert comparable(small.info.summary) == comparable(large.info.summary)
    assert small.info.summary["best"] == 7
    assert comparable(small.info.last) == comparable(large.info.last)


def test_points_that_are_not_kept_still_count_in_the_summary() -> None:
    """A reader that goes on in the middle of a log leaves points out, not what they add up to, and
    still tells the keys, for names are given by their order."""
    decoder = RunDecoder()
    decoder.begin("log")
    for payload in bytes_of(run_record(), history_record({"a": 1}, 0, 1.0)):
        decoder.feed(payload)
    assert list(decoder.take(keep_points=False)) == [Series(("a",), (), (), ())]
    info = decoder.info()
    assert (info.summary, info.last, info.last_step) == ({"a": 1}, {("a",): 1.0}, 0)


def test_a_number_beyond_a_double_becomes_infinity() -> None:
    """Python's integers have no limit; MLflow's values do."""
    nested = {"t": {"u": 10**400, "v": -(10**400)}}
    decoded = Decoded(bytes_of(history_record(nested, 0, 1.0)))
    assert [point[3] for point in decoded.points] == [math.inf, -math.inf]


def test_text_that_looks_like_a_number_stays_text() -> None:
    """Only JSON numbers are metrics, not the strings "nan" or "1.5"."""
    row = {"a": "nan", "b": "1.5", "c": "Infinity", ("d", "e"): "2"}
    decoded = Decoded(bytes_of(history_record(row, 0, 1.0)))
    assert decoded.points == []
    assert decoded.objects[0][2] == {(k,) if isinstance(k, str) else k: v for k, v in row.items()}


@pytest.mark.parametrize("timestamp", [None, -5.0, 1e30, math.nan, math.inf])
def test_a_time_that_is_none_is_replaced_by_the_row_before(timestamp: float | None) -> None:
    """A point must have a time that a database can hold; the user's own may be nonsense."""
    first, second = history_record({"a": 1}, 0, 50.0), history_record({"a": 2}, 1, 0.0)
    for item in second.history.item:
        if item.nested_key == ["_timestamp"]:
            item.value_json = json.dumps(timestamp)
    points = Decoded(bytes_of(first, second)).points
    assert [(step, at) for _, step, at, _ in points] == [(0, 50_000), (1, 50_000)]


def test_media_files_are_named_with_their_local_copy(tmp_path: Path) -> None:
    """A files record announces media below the run's folder; other files are found by walking."""
    record = summary_record({})
    record.files.files.add(path="media/images/x.png")
    record.files.files.add(path="config.yaml")
    decoder = RunDecoder()
    decoder.begin("log", LocalFiles(tmp_path))
    decoder.feed(record.SerializeToString())
    (ref,) = decoder.take()
    assert ref == FileRef("media/images/x.png", tmp_path / "files/media/images/x.png")
