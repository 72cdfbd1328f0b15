"""One attempt to upload a journal to W&B: read it, write its run, check that it arrived."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.journal_locks import exclusive_journal, remove_journal
from mlflow_wandb_plugin.journal.reader import JournalReader, read_header
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.replicator.run_upload import RunUpload
from mlflow_wandb_plugin.targets.wandb.lookup import Access, Mode, RemoteRun, RunAddress
from mlflow_wandb_plugin.wandb_api.address import wandb_folder

QUIET_AFTER_END_S = 0.5
"""Without operations after a run's end, before its W&B run is ended: models are registered then."""
QUIET_OF_DEAD_S = 1.0
"""Without operations of a run whose process is gone, before the run counts as killed."""
QUIET_OF_SERVER_RUN_S = 1800.0
"""Without operations of a server's run, before its W&B run is closed; the next one resumes it."""


class Ending(NamedTuple):
    """How to end the W&B run. Without ``sets_state`` its state in W&B stays as it is."""

    exit_code: int
    sets_state: bool = True


KEEP_STATE = Ending(0, sets_state=False)


class JournalUpload:
    """Uploads one journal to W&B, from its first byte.

    Args:
        write_status: see `WandbShipment.write_status`.
        last_status: the status file of the attempt before, or of an earlier journal of the run.
    """

    def __init__(
        self, path: Path, mode: Mode, write_status: Callable[..., str], last_status: dict[str, Any]
    ) -> None:
        header = read_header(path)
        entity = str(header.get("entity") or "")
        project, run_id = str(header["project"]), str(header["mlflow_run_id"])
        self._path = path
        self._header = header
        self._folder = path.with_suffix(".wandb")
        self._write_status = functools.partial(write_status, run_id=run_id, project=project)
        self._last_status = last_status
        self._reader = JournalReader(path)
        self._mode: Mode = mode
        self._access = Access() if mode == "online" else None
        if self._access is not None:
            entity = self._access.entity(entity)
        self._address = RunAddress(entity, project, run_id)
        self._remote = RemoteRun(0, {}) if self._access is None else self._access.run(self._address)
        self._run: RunUpload | None = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def upload_new(self) -> bool:
        """Upload the operations appended since the last call; returns whether there were any."""
        found = False
        for end, operation in outbox.operations(self._reader):
            found = True
            self._run = self._run or self._start(end)
            self._run.apply(operation)
        return found

    def _start(self, end: int) -> RunUpload:
        if self._access is not None:
            section, rows = self._remote.config.get(rules.MLFLOW_KEY) or {}, self._remote.rows
        else:
            # Offline, only the status file knows of earlier attempts and journals.
            status = self._last_status
            section, rows = status.get("about") or {}, int(status.get("rows") or 0)
        record, before, resent = find_start(self._path, end, section, rows)
        if resent and self._access is None:
            placed = self._last_status.get("folders") or []
            _delete_offline_runs(map(Path, placed), self._path, self._address.run_id)
        return RunUpload(
            self._path, self._header, record, before, self._address, self._mode, self._write_status
        )

    def send_pending(self) -> None:
        if self._run is not None:
            self._run.send_pending()

    def due_ending(self, alive: bool, quiet_s: float, follow: bool) -> Ending | None:
        """How to end the W&B run now; None while the run goes on.

        Args:
            alive: whether a process has the journal open for writing.
            quiet_s: seconds since the last operation.
            follow: whether to wait for more operations.
        """
        if self._run is None:
            return None if alive else KEEP_STATE
        state = self._run.state
        if state.ended:
            ending, patience_s = Ending(rules.EXIT_CODES[state.status]), QUIET_AFTER_END_S
        elif alive:
            return None
        elif self._header.get("role") == "server":
            ending, patience_s = KEEP_STATE, QUIET_OF_SERVER_RUN_S
        else:
            ending, patience_s = Ending(rules.KILLED_EXIT_CODE), QUIET_OF_DEAD_S
        return ending if quiet_s >= patience_s or not follow else None

    def end(self, ending: Ending) -> None:
        """End the W&B run, if it is open, and check that W&B has everything.

        Raises:
            TargetUnavailableError: W&B lacks something.
        """
        if self._run is None:
            return
        self._count_torn_end(self._run)
        if self._run.writer is None:
            return
        self._run.end(*ending)
        if self._access is not None:
            rows, files = self._run.next_row, self._run.pending.uploaded
            self._access.wait_for_arrival(self._address, rows, files)

    def _count_torn_end(self, run: RunUpload) -> None:
        """Count an incomplete record at the journal's end (a full disk), if nobody writes it."""
        with exclusive_journal(self._path) as size:
            if size is not None and size > self._reader.position and not self.upload_new():
                self._reader.finish()
        if self._reader.unreadable:
            run.state.lost["record cut short"] += len(self._reader.unreadable)
            self._reader.unreadable.clear()

    def remove_if_delivered(self) -> bool:
        """Remove the journal, if all of it was uploaded and nobody writes it."""
        with exclusive_journal(self._path) as size:
            if size != self._reader.position:
                return False
            # The status first: a later journal of the run has to find where this one ended.
            report = self._write_status if self._run is None else self._run.report
            report("complete", error="")
            remove_journal(self._path)
        for local in self._run.pending.local_files if self._run is not None else ():
            local.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._path.with_suffix(".files").rmdir()
        shutil.rmtree(self._folder, ignore_errors=True)
        return True

    def close_open_run(self) -> None:
        """End a W&B run that is still open; another attempt uploads what it lacks."""
        if self._run is not None:
            self._run.abandon()


def _delete_offline_runs(folders: Iterable[Path], journal: Path, run_id: str) -> None:
    """Delete offline runs that an interrupted attempt has placed.

    Only folders of this run, where wandb has such folders or beside the outbox, are deleted: the
    status file that names them may come from elsewhere.
    """
    named = re.compile(rf"offline-run-\d{{8}}_\d{{6}}-{re.escape(run_id)}(-\d+)?")
    places = {wandb_folder().resolve(), journal.parent.parent.resolve()}
    for folder in folders:
        ours = named.fullmatch(folder.name) and folder.parent.resolve() in places
        if ours and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.exists():
            print(f"{run_id}: {folder} of an interrupted attempt is left: remove it", flush=True)


_COUNTS = ("traces_not_mirrored", "lost")


def find_start(
    path: Path, end: int, section: Mapping[str, Any], next_row: int
) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Find ``record`` and ``section`` of `RunUpload`, and whether an earlier attempt has sent part
    of this journal. Earlier journals of the run may have been sent and removed.

    Args:
        end: offset behind the journal's first operation; the bytes before identify the journal.
        section: `rules.MLFLOW_KEY` of the W&B config, with the record of the latest journal.
        next_row: number of the next row of the W&B run's history.
    """
    with open(path, "rb") as file:
        journal_id = hashlib.sha256(file.read(end)).hexdigest()[:16]
    latest = section.get("journal") or {}
    resent = latest.get("id") == journal_id
    before = dict(section)
    if resent:
        # The section has the counts of the first attempt; this one counts again.
        before |= {key: latest.get(key) for key in _COUNTS}
    record = {"id": journal_id, "row": latest["row"] if resent else next_row}
    record |= {key: before[key] for key in _COUNTS if before.get(key)}
    return record, before, resent
