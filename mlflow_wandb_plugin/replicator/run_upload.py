"""Write the operations of one journal to its W&B run: rows at once, the rest in pauses."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.errors import MlflowWandbError, TargetError
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.replicator.mirrored_run import (
    HistoryRow,
    MirroredRunState,
    apply_operation,
)
from mlflow_wandb_plugin.replicator.pending_uploads import PendingUploads
from mlflow_wandb_plugin.replicator.seen_points import SeenPoints
from mlflow_wandb_plugin.targets.wandb.lookup import Mode, RunAddress
from mlflow_wandb_plugin.targets.wandb.run_writer import Description, WandbRunWriter
from mlflow_wandb_plugin.wandb_api.address import wandb_folder


class RunUpload:
    """Writes the W&B run of one journal. The run is opened when there is something to write.

    Args:
        path: the journal.
        header: of the journal.
        record: the journal's identity, first row, and what was lost before it. It is in the W&B
            config before any of the journal's rows, so that another attempt finds it there.
        section: `rules.MLFLOW_KEY` of the W&B config as it was when the journal began.
        write_status: see `WandbShipment.write_status`.

    Attributes:
        writer: None while the W&B run is not open.
        next_row: number of the next row: W&B has so many when all rows so far have arrived.
    """

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        record: Mapping[str, Any],
        section: Mapping[str, Any],
        address: RunAddress,
        mode: Mode,
        write_status: Callable[..., str],
    ) -> None:
        self.state = MirroredRunState.from_section(section)
        if rules.drops_repeats(str(header.get("tracking_uri") or "")):
            self.state.seen = SeenPoints()
        self.pending = PendingUploads(address.run_id, self.state.lost)
        self.next_row = int(record["row"])
        self.writer: WandbRunWriter | None = None
        self._path = path
        self._header = header
        self._record = record
        self._address = address
        self._mode: Mode = mode
        self._write_status = write_status
        self._sets_final_state = False
        self._offline_folders: list[str] = []

    def apply(self, operation: Mapping[str, Any]) -> None:
        """Apply one operation of the journal, and write the rows that W&B lacks."""
        files = self._path.with_suffix(".files")
        for row in apply_operation(operation, self.state, self.pending, files):
            self._upload_row(row)

    def _upload_row(self, row: HistoryRow) -> None:
        number = self.next_row
        self.next_row += 1
        writer = self._open_writer()
        if number < writer.next_row:
            return
        try:
            row(writer, number)
        except TargetError as error:
            print(f"{self._address.run_id}: row {number} refused: {error}", flush=True)
            self.state.lost["row refused"] += 1
            # The number is used up: later rows keep theirs.
            writer.log(number, {})

    def send_pending(self, final: bool = False) -> None:
        """Bring the description, files and models of the W&B run up to date."""
        writer = self._open_writer()
        self.pending.send(writer, final)
        self.state.lost.update(writer.losses)
        writer.losses.clear()
        writer.describe(self._description())
        if final:
            writer.summarize({key: value for key, (_, value) in self.state.latest.items()})

    def end(self, exit_code: int, sets_state: bool) -> None:
        """Send everything that is left and end the W&B run, which must be open; see `Ending`."""
        self.send_pending(final=True)
        if sets_state and not self._sets_final_state:
            # wandb decides at `init` whether a run's end sets its state.
            self._close_writer(0)
            self._open_writer(final=True)
        written = self._close_writer(exit_code)
        if written is not None and self._mode == "offline":
            self._place_offline_run(written)

    def abandon(self) -> None:
        """End a W&B run that is still open; another attempt sends what it lacks. Never raises."""
        with contextlib.suppress(MlflowWandbError):
            self._close_writer(rules.KILLED_EXIT_CODE)

    def report(self, state: str, **more: Any) -> str:
        """Write the status file with what is known of the run; returns ``state``."""
        return self._write_status(
            state,
            name=self.state.name or "",
            points=self.state.points,
            losses=self.state.losses,
            rows=self.next_row,
            about=self.state.section(self._header.get("experiment"), self._record),
            **more,
        )

    def _description(self) -> Description:
        return self.state.describe(self._header, self._record)

    def _open_writer(self, final: bool = False) -> WandbRunWriter:
        """The open writer; ``final`` if it is opened only to set the run's final state."""
        if self.writer is None:
            # A server's run may go on later, until it has ended.
            may_go_on = self._header.get("role") == "server" and not self.state.ended
            self._sets_final_state = final or self._mode == "offline" or not may_go_on
            self.writer = WandbRunWriter(
                self._address,
                self._mode,
                self._path.with_suffix(".wandb"),
                self._description(),
                self._sets_final_state,
                group=self.state.parent,
                source=rules.source_settings(self.state.tags),
            )
            self.report("live", where=self.writer.url)
        return self.writer

    def _close_writer(self, exit_code: int) -> Path | None:
        """End the W&B run, if it is open, and return the folder that wandb wrote."""
        writer, self.writer = self.writer, None
        if writer is None:
            return None
        writer.finish(exit_code)
        return writer.folder

    def _place_offline_run(self, written: Path) -> None:
        """Move a complete offline run to where wandb has such runs; a partial one never is there.

        The status names the folder first: an attempt after an interruption deletes it.
        """
        target = wandb_folder() / written.name
        for number in range(1, 1000):
            if not target.exists():
                break
            target = target.with_name(f"{written.name}-{number}")
        self._offline_folders.append(str(target))
        self.report("live", where=str(target), folders=self._offline_folders)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(written, target)
