"""A journal of an MLflow run, read as the items of its run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.core.model import Checkpoint, Item, RunInfo, Series
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.sources.mlflow import journal_reading
from mlflow_wandb_plugin.sources.mlflow.journal_reading import (
    JournalReading,
    Pauses,
    find_start,
)
from tests.support.mirrored import START_MS, JournalledRun


def reading(
    run: JournalledRun, pauses: Pauses | None = None, section: Any = None, rows: int = 0
) -> JournalReading:
    start = find_start(run.path, section or {}, rows)
    assert start is not None
    return JournalReading(run.path, read_header(run.path), start, dict, pauses, whole=False)


def points(items: list[Item]) -> dict[str, list[tuple[int, int, float]]]:
    """Row, time and value by key."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for item in items:
        if isinstance(item, Series):
            rows = zip(item.steps, item.timestamps_ms, item.values, strict=True)
            found.setdefault(item.key[0], []).extend(rows)
    return found


def ending(items: list[Item]) -> tuple[str, int | None]:
    last = items[-1]
    assert isinstance(last, RunInfo)
    return last.state, last.exit_code


def journalled(tmp_path: Path, run_id: str = "r", **header: Any) -> JournalledRun:
    run = JournalledRun(tmp_path / "mirror", run_id, **header)
    run.create("a run")
    return run


def expected(count: int, first_row: int = 0) -> dict[str, list[tuple[int, int, float]]]:
    rows = range(count)
    return {
        "loss": [(first_row + i, START_MS + 1000 * i, 1 / (i + 1)) for i in rows],
        "mlflow_step": [(first_row + i, START_MS + 1000 * i, float(i)) for i in rows],
    }


def test_rows_have_the_order_of_the_journal(tmp_path: Path) -> None:
    """Each batch is a row with its step and time; the last description says how the run ended."""
    run = journalled(tmp_path)
    run.points(5)
    run.end("FAILED")
    items = list(reading(run).items())
    assert points(items) == expected(5)
    assert ending(items) == ("failed", 1)
    assert items[-1].summary == {"loss": 1 / 5}  # type: ignore[union-attr]


def test_a_long_journal_has_a_checkpoint_in_each_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The points before a checkpoint are all those of the rows that it counts."""
    monkeypatch.setattr(journal_reading, "BLOCK_POINTS", 10)
    run = journalled(tmp_path)
    run.points(23)
    run.end()
    items = list(reading(run).items())
    marks = [place for place, item in enumerate(items) if isinstance(item, Checkpoint)]
    assert [items[place].position for place in marks] == [5, 10, 15, 20]  # type: ignore[union-attr]
    for place, count in zip(marks, (5, 10, 15, 20), strict=True):
        assert points(items[:place]) == expected(count)
    assert points(items) == expected(23)


def test_another_attempt_has_the_same_row_numbers(tmp_path: Path) -> None:
    """The record in the config says at which row the journal began; a later journal begins behind
    what W&B has."""
    run = journalled(tmp_path)
    run.points(4)
    run.end()
    first = list(reading(run, rows=7).items())
    assert points(first) == expected(4, 7)
    section = first[0].config["mlflow"]  # type: ignore[union-attr]
    assert points(list(reading(run, section=section, rows=9).items())) == expected(4, 7)
    later = JournalledRun(tmp_path / "later", "r")
    later.points(4)
    later.end()
    assert points(list(reading(later, section=section, rows=11).items())) == expected(4, 11)


@pytest.mark.parametrize(
    ("role", "wanted"), [("client", ("killed", 255)), ("server", ("running", None))]
)
def test_a_run_whose_writer_is_gone(
    tmp_path: Path, role: str, wanted: tuple[str, int | None]
) -> None:
    """A script that dies without ending its run has killed it; a server may go on with it."""
    run = journalled(tmp_path, role=role)
    run.points(1)
    run.close()
    assert ending(list(reading(run).items())) == wanted


def test_a_growing_journal_is_followed(tmp_path: Path) -> None:
    """What is appended while the reader waits follows; the reading ends after the run's end."""
    run = journalled(tmp_path)
    steps: list[Callable[[], object]] = [lambda: run.points(2), lambda: run.end("FINISHED")]

    def wait() -> bool:
        if steps:
            steps.pop(0)()
        return True

    items = list(reading(run, Pauses(wait, 0.0)).items())
    assert points(items) == expected(2)
    assert ending(items) == ("finished", 0)


def test_checkpoints_are_made_of_news_and_of_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without news there is none until a heartbeat is due; one who is told to stop yields the run
    as it is, and that it goes on."""

    def checkpoints(heartbeat_s: float) -> int:
        monkeypatch.setattr(journal_reading, "HEARTBEAT_S", heartbeat_s)
        left = iter([True] * 5)
        items = list(reading(run, Pauses(lambda: next(left, False), 0.0)).items())
        assert ending(items) == ("running", None)
        return sum(isinstance(item, Checkpoint) for item in items)

    run = journalled(tmp_path)
    assert checkpoints(heartbeat_s=3600.0) == 1
    assert checkpoints(heartbeat_s=0.0) == 6
    run.close()
