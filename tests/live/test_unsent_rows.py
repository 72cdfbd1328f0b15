"""What killed processes logged and W&B did not get is found by the next process of the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

from mlflow_wandb_plugin.journal.frames import RECORD
from mlflow_wandb_plugin.journal.writer import Journal
from mlflow_wandb_plugin.live.unsent_rows import KEPT_JOURNAL, Unsent, keep
from tests.support.records import partial_record

TIME = 1_700_000_000.25


def start_record(starting_step: int) -> Record:
    record = Record()
    record.request.run_start.run.starting_step = starting_step
    return record


def killed(folder: Path, segment: str, first_step: int, rows: list[Any], **note: Any) -> Path:
    """The journal of a process of a run that logged ``rows`` from ``first_step`` on."""
    run_folder = folder / f"run-{segment}"
    run_folder.mkdir()
    journal = Journal(folder / "mlflow" / f"{segment}.journal", {"resume": True})
    for record in [
        start_record(first_step),
        *(partial_record(row, None, None, TIME) for row in rows),
    ]:
        journal.append(RECORD, record.SerializeToString())
    if note:
        journal.note(**note)
    journal.close()
    return journal.path


def kept(folder: Path, segment: str, first_step: int, rows: list[Any]) -> Path:
    path = killed(folder, segment, first_step, rows)
    keep(path, folder / f"run-{segment}" / "run.wandb")
    assert not path.exists()
    return folder / f"run-{segment}" / KEPT_JOURNAL


def unsent(folder: Path, run_id: str, first_step: int) -> Unsent:
    return Unsent(folder / f"run-20260109_000000-{run_id}", run_id, first_step)


def test_rows_are_as_they_were_logged(tmp_path: Path) -> None:
    """From the first step that W&B lacks on, with their times; floats, integers, texts and trees
    are what they were."""
    logged = [
        {"loss": 0.5},
        {"loss": math.inf, "n": 3, "text": "a", "eval": {"acc": 0.25, "best": {"n": 1}}},
        {"flat.key": 1.0, "list": [1, 2], "none": None},
    ]
    kept(tmp_path, "20260101_000000-r1", 10, logged)
    assert unsent(tmp_path, "r1", 11).rows() == [
        (11, logged[1] | {"_timestamp": TIME}),
        (12, logged[2] | {"_timestamp": TIME}),
    ]
    assert unsent(tmp_path, "r1", 13).rows() == []


def test_a_journal_that_is_not_delivered_yet_counts_and_stays(tmp_path: Path) -> None:
    """MLflow is still to have it; a kept one has done its work once its rows are logged again."""
    first = kept(tmp_path, "20260101_000000-r1", 0, [{"a": 0}])
    second = killed(tmp_path, "20260102_000000-r1", 1, [{"a": 1}])
    found = unsent(tmp_path, "r1", 0)
    assert [(step, row["a"]) for step, row in found.rows()] == [(0, 0), (1, 1)]
    found.forget()
    assert not first.exists()
    assert second.exists()


def test_a_process_that_died_while_it_logged_again_loses_nothing(tmp_path: Path) -> None:
    """It had the rows up to some step; later ones are those of the process before it."""
    kept(tmp_path, "20260101_000000-r1", 0, [{"a": n, "by": 1} for n in range(5)])
    kept(tmp_path, "20260102_000000-r1", 2, [{"a": 2, "by": 2}, {"a": 3, "by": 2}])
    rows = unsent(tmp_path, "r1", 2).rows()
    assert [(step, row["a"], row["by"]) for step, row in rows] == [(2, 2, 2), (3, 3, 2), (4, 4, 1)]


def test_other_runs_and_shared_logs_are_left(tmp_path: Path) -> None:
    """A run whose id ends alike, the process that asks, and a log whose order wandb-core alone
    knows."""
    kept(tmp_path, "20260101_000000-other-r1", 0, [{"a": 1}])
    killed(tmp_path, "20260109_000000-r1", 0, [{"a": 2}])
    killed(tmp_path, "20260103_000000-r1", 0, [], rows_from_file=True, pid=1)
    assert unsent(tmp_path, "r1", 0).rows() == []
