"""Keep the rows that a killed process logged and W&B did not get, for the process that resumes.

wandb-core sends rows every 15 seconds and writes its ``.wandb`` file in large blocks: if a process
is killed, both lack its last rows. The journal has them, so it is not removed when MLflow has
everything, but moved into the run folder of that process.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from mlflow_wandb_plugin.core.model import nest
from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal import frames, reader
from mlflow_wandb_plugin.journal.frames import JOURNAL_DIR
from mlflow_wandb_plugin.live.terminal import print_line, warn_once
from mlflow_wandb_plugin.wandb_log.metric_definitions import MetricDefinitions
from mlflow_wandb_plugin.wandb_log.run_folders import segment_of
from mlflow_wandb_plugin.wandb_log.steps import Row, StepMachine
from mlflow_wandb_plugin.wandb_log.summary import SummaryFold

KEPT_JOURNAL = "mlflow-unsent"
"""Name of the journal in the run folder of a killed process."""
_CORE_KEYS = ("_step", "_runtime")
_OTHER_WRITERS = {"rows_from_file", "shared"}


def keep(path: Path, wandb_file: Path) -> None:
    """Move a delivered journal into the run folder of its process.

    Raises:
        OSError: the folder cannot be written.
    """
    shutil.move(path, wandb_file.parent / KEPT_JOURNAL)


def may_lack_rows(path: Path, header: Mapping[str, Any], wandb_file: Path) -> bool:
    """Whether W&B may lack rows of journal ``path`` and a later process may log them.

    That is so if the run was online, may be resumed, and ``finish()`` did not return.
    """
    folder = wandb_file.parent
    if not (folder.name.startswith("run-") and folder.is_dir() and header.get("resume")):
        return False
    notes = (entry for entry in reader.JournalReader(path).read() if entry.kind == frames.NOTE)
    return not any(note.document().get("uploaded") for note in notes)


def log_unsent(run: Any) -> None:
    """Log the rows of killed processes that did not reach W&B, with their steps and times.

    W&B resumes after the last row that it has; MLflow ignores rows that it has already. Never
    raises.

    Args:
        run: the W&B run of this process, which has just started.
    """
    try:
        if run.offline or not run.resumed:
            return
        unsent = Unsent(Path(run.dir).parent, run.id, run.starting_step)
        rows = unsent.rows()
        for step, row in rows:
            run.log(row, step=step, commit=True)
        unsent.forget()
    except Exception as error:
        warn_once(f"W&B may lack what a killed process logged: {error}")
        return
    if rows:
        print_line(f"{len(rows)} rows of a killed process are logged again: W&B did not have them")


class Unsent:
    """The rows that earlier processes logged to a run and W&B does not have.

    Args:
        run_folder: run folder of the process that resumes the run.
        run_id: W&B's run id.
        first_step: first step of the process that resumes; W&B has no rows from there on.
    """

    def __init__(self, run_folder: Path, run_id: str, first_step: int) -> None:
        named = re.compile(rf"run-\d{{8}}_\d{{6}}-{re.escape(run_id)}")
        beside = sorted(folder for folder in run_folder.parent.iterdir() if folder != run_folder)
        self._earlier = [folder for folder in beside if named.fullmatch(folder.name)]
        self._first_step = first_step

    def rows(self) -> list[tuple[int, dict[str, Any]]]:
        """Return (step, row) as they were logged, with ``_timestamp``, by step.

        The rows of a later process replace those of earlier ones: it has logged them again, or
        logged its own in their place.
        """
        found: dict[int, dict[str, Any]] = {}
        for folder in self._earlier:
            for row in _logged_by(folder):
                if row.step >= self._first_step:
                    found[row.step] = _values(row)
        return sorted(found.items(), key=lambda row: row[0])

    def forget(self) -> None:
        """Remove the kept journals, once their rows have been logged again."""
        for folder in self._earlier:
            (folder / KEPT_JOURNAL).unlink(missing_ok=True)


def _logged_by(run_folder: Path) -> list[Row]:
    """Return the rows of one process, from its pending or its kept journal."""
    waiting = f"{segment_of(run_folder / 'of.wandb')}{frames.SUFFIX}"
    # In this order, because the journal may be moved meanwhile.
    for path in (run_folder.parent / JOURNAL_DIR / waiting, run_folder / KEPT_JOURNAL):
        with contextlib.suppress(JournalError):
            return list(_rows(path))
    return []


def _rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a journal, up to where other processes or TensorBoard feed the run, too.

    From there on only wandb-core knows the order of rows.

    Raises:
        JournalError: there is no such journal.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    machine = StepMachine(MetricDefinitions(SummaryFold()))
    for frame in reader.JournalReader(path).read():
        if frame.kind == frames.NOTE and _OTHER_WRITERS & frame.document().keys():
            return
        if frame.kind != frames.RECORD:
            continue
        with contextlib.suppress(DecodeError):
            request = Record.FromString(frame.payload).request
            if request.HasField("run_start"):
                machine.step = max(machine.step, request.run_start.run.starting_step)
            elif request.HasField("partial_history"):
                yield from machine.add(request.partial_history)
    yield from machine.flush()


def _values(row: Row) -> dict[str, Any]:
    users = {path: text for path, text in row.values.items() if path[0] not in _CORE_KEYS}
    return nest({path: json.loads(text) for path, text in users.items()})
