"""Write the operations of one journal to its W&B run: rows at once, the rest in pauses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.errors import TargetError
from mlflow_wandb_plugin.replicator.mirrored_run import MirroredRunState, describe
from mlflow_wandb_plugin.replicator.operations import (
    HistoryRow,
    ImageRow,
    TableRow,
    apply_operation,
)
from mlflow_wandb_plugin.replicator.pending_uploads import PendingUploads, UploadSender
from mlflow_wandb_plugin.replicator.writer_session import WriterSession, place_offline_run
from mlflow_wandb_plugin.targets.wandb.run_writer import Description, WandbRunWriter


@dataclass(frozen=True, slots=True)
class JournalStart:
    """Where a journal begins.

    Attributes:
        record: the journal's identity, first row, and what was lost before it. It is in the W&B
            config before any of the journal's rows, so that another attempt finds it there.
        section: `rules.MLFLOW_KEY` of the W&B config as it was when the journal began.
        resent: an earlier attempt has sent a part of this journal.
    """

    record: dict[str, Any]
    section: dict[str, Any]
    resent: bool

    @property
    def first_row(self) -> int:
        return int(self.record["row"])


class RunUpload:
    """Writes the W&B run of one journal.

    Args:
        header: of the journal.
        files: the folder of the journal's files.
        write_status: see `WandbShipment.write_status`.

    Attributes:
        next_row: number of the next row: W&B has so many when all rows so far have arrived.
    """

    def __init__(
        self,
        header: Mapping[str, Any],
        files: Path,
        start: JournalStart,
        session: WriterSession,
        write_status: Callable[..., str],
    ) -> None:
        self.state = MirroredRunState.from_section(start.section)
        self._header = header
        self._files = files
        self._start = start
        self._session = session
        self._write_status = write_status
        self.sender = UploadSender(session.address.run_id, PendingUploads(), self.state.lost)
        self.next_row = start.first_row
        self._offline_folders: list[str] = []

    def apply(self, operation: Mapping[str, Any]) -> None:
        """Apply one operation of the journal, and write the rows that W&B lacks."""
        for row in apply_operation(operation, self.state, self.sender.pending, self._files):
            self._upload_row(row)

    def _upload_row(self, row: HistoryRow) -> None:
        number = self.next_row
        self.next_row += 1
        writer = self._open_writer()
        if number < writer.next_row:
            return
        try:
            _write_row(writer, number, row)
        except TargetError as error:
            print(f"{self._session.address.run_id}: row {number} refused: {error}", flush=True)
            self.state.lost["row refused"] += 1
            # The number is used up: later rows keep theirs.
            writer.log(number, {})

    def send_pending(self, final: bool = False) -> None:
        """Bring the description, files and models of the W&B run up to date."""
        writer = self._open_writer()
        self.sender.send(writer, final)
        self.state.lost.update(writer.losses)
        writer.losses.clear()
        writer.describe(self._description())

    def end(self, exit_code: int, sets_state: bool) -> None:
        """Send everything that is left and end the W&B run, which must be open; see `Ending`."""
        self.send_pending(final=True)
        if sets_state and not self._session.sets_final_state:
            # wandb decides at `init` whether a run's end sets its state.
            self._close_writer(0)
            self._open_writer(final=True)
        self._close_writer(exit_code)

    def report(self, state: str, **more: Any) -> str:
        """Write the status file with what is known of the run; returns ``state``."""
        return self._write_status(
            state,
            points=self.state.points,
            losses=self.state.losses,
            rows=self.next_row,
            about=self.state.section(self._header.get("experiment"), self._start.record),
            **more,
        )

    def _description(self) -> Description:
        return describe(self.state, self._header, self._start.record)

    def _open_writer(self, final: bool = False) -> WandbRunWriter:
        writer = self._session.writer
        if writer is None:
            writer = self._session.open(self.state, self._description(), final)
            self.report("live", where=writer.url)
        return writer

    def _close_writer(self, exit_code: int) -> None:
        written = self._session.close(exit_code)
        if written is not None and self._session.mode == "offline":
            place_offline_run(written, self._report_offline_folder)

    def _report_offline_folder(self, folder: Path) -> None:
        self._offline_folders.append(str(folder))
        self.report("live", where=str(folder), folders=self._offline_folders)


def _write_row(writer: WandbRunWriter, number: int, row: HistoryRow) -> None:
    if isinstance(row, ImageRow):
        writer.log_image(number, row.name, row.local, row.at_ms)
    elif isinstance(row, TableRow):
        writer.log_table(number, row.key, row.columns, row.data, row.at_ms)
    else:
        writer.log(number, row.document())
