"""What killed processes logged to a W&B run and W&B did not get: kept, and found by the next one.

wandb-core sends rows every 15 seconds and writes its ``.wandb`` file in large blocks: of a process
that is killed, both lack the last rows. The journal has them, so it is not removed when MLflow has
everything, but moved into W&B's folder of that process.
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
from mlflow_wandb_plugin.wandb_log.folder_names import segment_of
from mlflow_wandb_plugin.wandb_log.metric_definitions import MetricDefinitions
from mlflow_wandb_plugin.wandb_log.steps import Row, StepMachine
from mlflow_wandb_plugin.wandb_log.summary import SummaryFold

KEPT = "mlflow-unsent"
"""A journal's name in the run folder of a process that was killed."""
_CORES_OWN = ("_step", "_runtime")
_NOT_ALONE = {"rows_from_file", "shared"}


def keep(path: Path, wandb_file: Path) -> None:
    """Move a delivered journal into the run folder of its process.

    Raises:
        OSError: the folder cannot be written.
    """
    shutil.move(path, wandb_file.parent / KEPT)


def may_lack_rows(path: Path, header: Mapping[str, Any], wandb_file: Path) -> bool:
    """Whether W&B may lack rows of journal ``path``, and the run may be gone on with: it was
    online, ``finish()`` did not come to its end, and the run may be resumed."""
    folder = wandb_file.parent
    online = folder.name.startswith("run-") and folder.is_dir()
    return online and bool(header.get("resume")) and not _uploaded(path)


def _uploaded(path: Path) -> bool:
    notes = (entry for entry in reader.JournalReader(path).read() if entry.kind == frames.NOTE)
    return any(note.document().get("uploaded") for note in notes)


class Unsent:
    """What earlier processes logged to a run beyond what W&B has.

    Args:
        run_folder: of the process that goes on with the run, in W&B's own folder.
        run_id: W&B's.
        first_step: of the process that goes on: W&B has no row from here on.
    """

    def __init__(self, run_folder: Path, run_id: str, first_step: int) -> None:
        named = re.compile(rf"run-\d{{8}}_\d{{6}}-{re.escape(run_id)}")
        beside = sorted(folder for folder in run_folder.parent.iterdir() if folder != run_folder)
        self._earlier = [folder for folder in beside if named.fullmatch(folder.name)]
        self._first_step = first_step

    def rows(self) -> list[tuple[int, dict[str, Any]]]:
        """Steps and rows as they were logged, with ``_timestamp``, by step. A later process goes
        over an earlier one: it has logged the earlier one's rows, or its own in their place."""
        found: dict[int, dict[str, Any]] = {}
        for folder in self._earlier:
            for row in _logged_by(folder):
                if row.step >= self._first_step:
                    found[row.step] = _values(row)
        return sorted(found.items(), key=lambda row: row[0])

    def forget(self) -> None:
        """The rows have been logged again: another journal has them now."""
        for folder in self._earlier:
            (folder / KEPT).unlink(missing_ok=True)


def _logged_by(run_folder: Path) -> list[Row]:
    """Rows of the journal of one process: not yet delivered, or kept."""
    waiting = f"{segment_of(run_folder / 'of.wandb')}{frames.SUFFIX}"
    # In the order in which it moves.
    for path in (run_folder.parent / JOURNAL_DIR / waiting, run_folder / KEPT):
        with contextlib.suppress(JournalError):
            return list(_rows(path))
    return []


def _rows(path: Path) -> Iterator[Row]:
    """None beyond the point at which other processes or TensorBoard feed the run, too: wandb-core
    alone knows their order.

    Raises:
        JournalError: there is no such journal.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    machine = StepMachine(MetricDefinitions(SummaryFold()))
    for frame in reader.JournalReader(path).read():
        if frame.kind == frames.NOTE and _NOT_ALONE & frame.document().keys():
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
    return nest(
        {path: json.loads(text) for path, text in row.values.items() if path[0] not in _CORES_OWN}
    )
