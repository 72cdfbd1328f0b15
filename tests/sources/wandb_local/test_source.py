"""Local folders as a source: which runs there are, and what their logs tell together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlflow_wandb_plugin.core.model import (
    Checkpoint,
    FileRef,
    Item,
    RunInfo,
    Selection,
    Series,
    UnreadableRange,
)
from mlflow_wandb_plugin.errors import SourceError
from mlflow_wandb_plugin.journal.frames import RECORD
from mlflow_wandb_plugin.journal.writer import Journal
from mlflow_wandb_plugin.sources.wandb_local.folders import RunLog, find_logs
from mlflow_wandb_plugin.sources.wandb_local.run_log import (
    FIRST_BLOCK_POINTS,
    is_open_elsewhere,
    peek,
    read_logs,
)
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from mlflow_wandb_plugin.wandb_log.log_writer import LogWriter
from tests.support.processes import wait_until
from tests.support.records import exit_record, history_record, partial_record, run_record

FIRST, SECOND = "20260101_000000-r1", "20260102_000000-r1"


def wandb_file(folder: Path, segment: str, *records: Any, offline: bool = True) -> Path:
    """A run folder of ``segment`` with a log of ``records`` (messages or raw bytes)."""
    run = folder / f"{'offline-' if offline else ''}run-{segment}"
    run.mkdir(parents=True)
    path = run / f"run-{segment.partition('-')[2]}.wandb"
    with LogWriter(path) as log:
        for record in records:
            log.append(record if isinstance(record, bytes) else record.SerializeToString())
    return path


def journal_file(folder: Path, segment: str, *records: Any, closed: bool = True) -> Path:
    path = folder / "mlflow" / f"{segment}.journal"
    ours = Journal(path, {"run_id": "r1"})
    for record in records:
        ours.append(RECORD, record if isinstance(record, bytes) else record.SerializeToString())
    if closed:
        ours.note(closed=True, broken=False)
    ours.close()
    return path


def items(source: WandbDir, since: dict[str, int] | None = None) -> list[Item]:
    """Everything of the only run."""
    (run,) = source.runs(Selection())
    return list(source.read(run, since or {}))


def points(found: list[Item], key: str = "a") -> list[tuple[int, float]]:
    return [
        (step, value)
        for item in found
        if isinstance(item, Series) and item.key == (key,)
        for step, value in zip(item.steps, item.values, strict=True)
    ]


def last_info(found: list[Item]) -> RunInfo:
    return [item for item in found if isinstance(item, RunInfo)][-1]


def row(step: int, **values: Any) -> Any:
    return history_record(values or {"a": float(step)}, step, 1000.0 + step)


# -- which runs there are -----------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "wandb", ".wandb"])
def test_runs_are_found_from_the_project_folder_and_from_within(tmp_path: Path, below: str) -> None:
    """The folder that holds run folders, or its parent, offline and online runs alike."""
    wandb_file(tmp_path / below, FIRST, run_record("r1"))
    wandb_file(tmp_path / below, "20260103_000000-r2", run_record("r2"), offline=False)
    (tmp_path / below / "latest-run").symlink_to(f"offline-run-{FIRST}")
    for place in {tmp_path, tmp_path / below}:
        found = [run.run_id for run in WandbDir(place).runs(Selection())]
        assert found == ["r1", "r2"]


def test_a_run_folder_and_a_file_name_one_run(tmp_path: Path) -> None:
    """Either of them is enough."""
    path = wandb_file(tmp_path, FIRST, run_record("r1"))
    wandb_file(tmp_path, "20260103_000000-r2", run_record("r2"))
    for place in (path, path.parent):
        assert [log.segment for log in find_logs(place).logs] == [FIRST]


def test_a_folder_without_runs_says_what_to_pass(tmp_path: Path) -> None:
    """A typing mistake is one clear line."""
    with pytest.raises(SourceError, match=r"no W&B runs in .*: pass a wandb folder"):
        list(WandbDir(tmp_path).runs(Selection()))


@pytest.mark.parametrize("place", [".", "wandb"])
def test_a_journal_whose_run_folder_is_gone_is_a_run(tmp_path: Path, place: str) -> None:
    """It may be all that is left of a run, seen from the project's folder, too."""
    wandb_file(tmp_path / "wandb", "20260103_000000-r2", run_record("r2"))
    journal_file(tmp_path / "wandb", FIRST, run_record("r1"), partial_record({"a": 1}))
    found = {run.run_id for run in WandbDir(tmp_path / place).runs(Selection())}
    assert found == {"r1", "r2"}


def test_a_log_without_a_run_is_reported_and_the_others_are_read(tmp_path: Path) -> None:
    """Nothing was logged, or it is another file: neither stops the listing. Of each the size
    behind a file header is told."""
    wandb_file(tmp_path, FIRST)
    other = wandb_file(tmp_path, SECOND)
    other.write_bytes(b"something else entirely")
    wandb_file(tmp_path, "20260103_000000-r2", run_record("r2"))
    source = WandbDir(tmp_path)
    assert [run.run_id for run in source.runs(Selection())] == ["r2"]
    assert [(unreadable.where, unreadable.length) for unreadable in source.unreadable] == [
        ("r1", 0), ("r1", len(b"something else entirely") - 7),
    ]  # fmt: skip


def test_logs_of_one_id_are_one_run(tmp_path: Path) -> None:
    """A resumed run: both logs, the first one's start, the later config over the earlier."""
    wandb_file(tmp_path, FIRST, run_record("r1", 5_000, config={"a": 1, "b": 1}), row(0))
    wandb_file(tmp_path, SECOND, run_record("r1", 9_000, config={"b": 2}), row(1), exit_record())
    source = WandbDir(tmp_path)
    (run,) = source.runs(Selection())
    assert (run.segments, run.started_ms) == ((FIRST, SECOND), 5_000)
    assert (run.config["a"], run.config["b"]) == (1, 2)
    found = items(source)
    assert points(found) == [(0, 0.0), (1, 1.0)]
    info = last_info(found)
    assert info.segments == (FIRST, SECOND)
    assert info.first_config == {("a",): 1, ("b",): 1}
    assert (info.state, info.last_step) == ("finished", 1)


# -- journal and file together ------------------------------------------------------------------


def test_a_run_that_another_process_listed_is_read(tmp_path: Path) -> None:
    """All of its logs are read, in order; missing ones are an error."""
    for segment, step in ((FIRST, 0), (SECOND, 1)):
        row = history_record({"m": step}, step, 1_700_000_000 + step)
        wandb_file(tmp_path, segment, run_record(), row, exit_record())
    (run,) = WandbDir(tmp_path).runs(Selection())
    found = list(WandbDir(tmp_path).read(run, {}))
    assert [item.steps[0] for item in found if isinstance(item, Series)] == [0, 1]
    with pytest.raises(SourceError, match=f"does not hold {FIRST}, {SECOND} of run"):
        list(WandbDir(tmp_path / "elsewhere").read(run, {}))


def test_rows_are_read_from_the_journal_if_there_is_one(tmp_path: Path) -> None:
    """What wandb-core's file has too is not yielded twice; what it alone knows is."""
    stats = run_record()
    stats.stats.timestamp.FromMilliseconds(1_000_500)
    stats.stats.item.add(key="cpu", value_json="50")
    wandb_file(tmp_path, FIRST, run_record("r1"), row(0), stats, exit_record(0, 7))
    journal_file(tmp_path, FIRST, run_record("r1"), partial_record({"a": 0}), exit_record())
    found = items(WandbDir(tmp_path))
    assert points(found) == [(0, 0.0)]
    assert [item.key for item in found if isinstance(item, Series)] == [("a",), ("cpu",)]
    assert last_info(found).state == "finished"


def test_a_journal_cut_short_is_replaced_by_a_complete_file(tmp_path: Path) -> None:
    """Of a resumed run the later journal broke off: nothing of the earlier log is forgotten."""
    wandb_file(tmp_path, FIRST, run_record("r1", config={"a": 1}), row(0), exit_record())
    records = [row(step) for step in range(1, 5)]
    wandb_file(tmp_path, SECOND, run_record("r1", config={"b": 2}), *records, exit_record())
    journal_file(
        tmp_path, SECOND, run_record("r1", starting_step=1, config={"b": 2}),
        partial_record({"a": 1}), closed=False,
    )  # fmt: skip
    found = items(WandbDir(tmp_path))
    assert {step for step, _ in points(found)} == {0, 1, 2, 3, 4}
    info = last_info(found)
    assert info.segments == (FIRST, SECOND)
    assert info.first_config == {("a",): 1, ("b",): 2}
    assert (info.state, info.missing) == ("finished", False)


def test_a_run_without_a_recorded_end_was_killed(tmp_path: Path) -> None:
    """Nobody writes its log any more: it is not left running."""
    path = wandb_file(tmp_path, FIRST, run_record("r1"), row(0))
    assert peek(RunLog(FIRST, path)).state == "killed"
    info = last_info(items(WandbDir(tmp_path)))
    assert info.state == "killed"
    assert info.ended_ms is not None


def test_a_run_whose_log_is_still_written_is_running(tmp_path: Path) -> None:
    """Another process has the file open."""
    path = wandb_file(tmp_path, FIRST, run_record("r1"), row(0))
    code = f"import sys; file = open({str(path)!r}, 'ab'); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: is_open_elsewhere(path), what="the writer")
        assert peek(RunLog(FIRST, path)).state == "running"
    finally:
        process.communicate(timeout=30)
    assert not is_open_elsewhere(path)


# -- going on, damage, files --------------------------------------------------------------------


def test_what_was_carried_is_not_yielded_again(tmp_path: Path) -> None:
    """From a position on: later points, and the complete run's summary, config and last values."""
    path = wandb_file(tmp_path, FIRST, run_record("r1"), *[row(step) for step in range(5)])
    first = items(WandbDir(tmp_path))
    *_, mark = [item for item in first if isinstance(item, Checkpoint)]
    assert mark == Checkpoint(FIRST, path.stat().st_size)
    with_more = path.read_bytes()
    path.unlink()
    path.parent.rmdir()
    path = wandb_file(tmp_path, FIRST, run_record("r1"), *[row(step) for step in range(8)])
    assert path.read_bytes().startswith(with_more)
    found = items(WandbDir(tmp_path), {FIRST: mark.position})
    assert {step for step, _ in points(found)} >= {5, 6, 7}
    assert last_info(found).summary == {"a": 7}
    whole = items(WandbDir(tmp_path), {FIRST: -1})
    assert points(whole) == []
    assert last_info(whole).summary == {"a": 7}


def test_a_record_that_is_none_costs_itself_alone(tmp_path: Path) -> None:
    """Sound framing around bytes that are no record: reported with its place, the rest is read."""
    broken = row(1)
    broken.history.item[0].value_json = "{not json"
    junk = b"\x12\xff\xff\xff\x7fjunk"
    path = wandb_file(
        tmp_path, FIRST, run_record("r1"), row(0), junk, broken, row(2), exit_record()
    )
    found = items(WandbDir(tmp_path))
    assert [point for point in points(found) if point[0] != 1] == [(0, 0.0), (2, 2.0)]
    assert last_info(found).state == "finished"
    unreadable = [item for item in found if isinstance(item, UnreadableRange)]
    assert len(unreadable) == 2
    at = path.read_bytes().index(junk)
    assert (unreadable[0].where, unreadable[0].offset, unreadable[0].length) == (
        str(path),
        at,
        len(junk),
    )


def test_junk_in_a_journal_costs_itself_alone(tmp_path: Path) -> None:
    """The same if the rows are read from the journal."""
    journal_file(
        tmp_path, FIRST, run_record("r1"), partial_record({"a": 1}), b"\xff\xff junk",
        partial_record({"a": 2}), exit_record(),
    )  # fmt: skip
    (tmp_path / "mlflow").rename(tmp_path / "journals")
    path = tmp_path / "journals" / f"{FIRST}.journal"
    found = list(read_logs([RunLog(FIRST, None, path)], {}))
    assert points(found) == [(0, 1.0), (1, 2.0)]
    assert len([item for item in found if isinstance(item, UnreadableRange)]) == 1


def test_rows_of_a_process_that_joins_while_earlier_ones_are_written_out(tmp_path: Path) -> None:
    """The journal was read to its end when the other process joined; wandb-core has its row in
    the file before that is read."""
    path = wandb_file(tmp_path, FIRST, run_record("r1"))
    journal = Journal(tmp_path / "mlflow" / f"{FIRST}.journal", {"run_id": "r1"})
    for record in (run_record("r1"), partial_record({"a": 0}, timestamp=1000.0)):
        journal.append(RECORD, record.SerializeToString())
    log = RunLog(FIRST, path, journal.path)
    found: list[Item] = []
    for item in read_logs([log], {}, follow=lambda _: False):
        if isinstance(item, Checkpoint) and not any(isinstance(one, Checkpoint) for one in found):
            journal.note(rows_from_file=True)
            path.unlink()
            with LogWriter(path) as file:
                for record in (run_record("r1"), row(0), row(1), exit_record()):
                    file.append(record.SerializeToString())
            journal.note(closed=True)
            journal.close()
        found.append(item)
    assert sorted(set(points(found))) == [(0, 0.0), (1, 1.0)]


def test_every_file_of_the_run_is_named(tmp_path: Path) -> None:
    """With its path below ``files/``, folders included, in a fixed order."""
    path = wandb_file(tmp_path, FIRST, run_record("r1"), exit_record())
    for name in ("output.log", "media/images/b.png", "code/a.py", "a.txt"):
        file = path.parent / "files" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    found = [item for item in items(WandbDir(tmp_path)) if isinstance(item, FileRef)]
    assert [ref.path for ref in found] == [
        "a.txt", "output.log", "code/a.py", "media/images/b.png",
    ]  # fmt: skip
    assert all(ref.local.read_text() == ref.path for ref in found)


def test_an_unreadable_log_is_one_runs_error(tmp_path: Path) -> None:
    """A file that is deleted between listing and reading is a SourceError."""
    path = wandb_file(tmp_path, FIRST, run_record("r1"))
    source = WandbDir(tmp_path)
    (run,) = source.runs(Selection())
    os.unlink(path)
    with pytest.raises(SourceError, match="cannot read"):
        list(source.read(run, {}))


def test_the_first_block_of_a_log_is_small(tmp_path: Path) -> None:
    """A target has something to write soon; blocks double in size, and no point is lost."""
    keys = [f"k{number}" for number in range(40)]
    rows = [row(step, **dict.fromkeys(keys, step)) for step in range(2000)]
    wandb_file(tmp_path, "offline-run-1-one", run_record("one"), *rows, exit_record(0))
    blocks = [0]
    for item in items(WandbDir(tmp_path)):
        if isinstance(item, Series):
            blocks[-1] += len(item.values)
        elif isinstance(item, Checkpoint):
            blocks.append(0)
    between_checks = 64 * len(keys)
    assert FIRST_BLOCK_POINTS <= blocks[0] <= FIRST_BLOCK_POINTS + between_checks
    assert 2 * FIRST_BLOCK_POINTS <= blocks[1] <= 2 * FIRST_BLOCK_POINTS + between_checks
    assert sum(blocks) == len(keys) * len(rows)
