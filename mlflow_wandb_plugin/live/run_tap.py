"""One tapped run in the training process: its journal and its share of the replicator."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core import identity, tracking_uri
from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal import frames
from mlflow_wandb_plugin.journal.frames import JOURNAL_DIR
from mlflow_wandb_plugin.journal.status import read_status
from mlflow_wandb_plugin.journal.writer import Journal
from mlflow_wandb_plugin.live.replicator_process import Replicator
from mlflow_wandb_plugin.live.terminal import ProgressLine, print_line, warn_once
from mlflow_wandb_plugin.settings import Settings
from mlflow_wandb_plugin.wandb_log.folder_names import segment_of

TROUBLE_PATIENCE_S = 10.0
"""How long finish() waits for an MLflow that is known not to answer."""


class RunTap:
    """Writes what the SDK sends to the run's journal. Nothing here raises into user code."""

    def __init__(self, run: Any, settings: Settings, wandb_file: Path) -> None:
        self.lock = threading.RLock()
        self.pid = os.getpid()
        self.closed = False
        self._run = run
        self._settings = settings
        self._wandb_file = wandb_file.absolute()
        folder = settings.journal_dir or self._wandb_file.parent.parent / JOURNAL_DIR
        self.path = Path(folder).absolute() / f"{segment_of(self._wandb_file)}{frames.SUFFIX}"
        self._journal: Journal | None = None
        self._broken = False
        self._target_uri = ""
        self._replicator = Replicator.of_this_process()
        self._told_wandb = False

    # -- the run's life -------------------------------------------------------------------

    def prepare(self) -> None:
        """Start the replicator now, so that it is ready when wandb is."""
        self._target_uri = tracking_uri.uri(self._settings)
        self._replicator.start(self.path.parent)

    def started(self) -> None:
        """wandb.init is nearly done: let the replicator follow, learn the MLflow run id."""
        if self._journal is None:
            return
        self._follow()
        status = self._wait(self._settings.init_timeout, ("live", "waiting", "failed"))
        if status.get("run_id"):
            self._tell_wandb(status)
        else:
            reason = status.get("error") or "MLflow has not answered yet"
            warn_once(f"{reason}; training goes on, the journal keeps everything for MLflow")

    def before_finish(self) -> None:
        """The last moment at which the W&B run can be told of its twin: wandb takes no config
        from a run that it calls finished."""
        if self._told_wandb or self.closed or self.pid != os.getpid():
            return
        status = read_status(self.path)
        if status.get("run_id"):
            self._tell_wandb(status)

    def finished(self, uploaded: bool = True) -> None:
        """wandb is done with the run: close the journal and wait for the replica.

        Args:
            uploaded: whether wandb came to the end of it, for which it uploads everything.
        """
        with self.lock:
            if self.closed or self._journal is None or self.pid != os.getpid():
                return
            self.closed = True
            self._note(closed=True, broken=self._broken, uploaded=uploaded)
            self._journal.close()
        if not self._replicator.alive():
            self._replicator.start(self.path.parent)
            self._follow()
        self._wait_for_replica()

    def shared_with_child(self) -> None:
        """A forked child logs into this run, too: from now on only wandb-core knows the order."""
        self._note(rows_from_file=True, pid=os.getpid())

    # -- records --------------------------------------------------------------------------

    def write(self, record: Any) -> None:
        """Journal one record that wandb has accepted. The caller holds the lock."""
        if self._broken:
            return
        try:
            if self._journal is None:
                self._open()
            if record.WhichOneof("record_type") == "tbrecord":
                self._note(rows_from_file=True)
            assert self._journal is not None
            self._journal.append(frames.RECORD, record.SerializeToString())
        except JournalError as error:
            self._give_up(error)

    def keeping_files(self, record: Any) -> Any:
        """The record to journal: an artifact's staged files are kept under other names, for
        wandb-core deletes them once they are uploaded."""
        kind = record.WhichOneof("record_type")
        if kind not in ("artifact", "request") or self._broken:
            return record
        copy = type(record)()
        copy.CopyFrom(record)
        artifact = copy.artifact if kind == "artifact" else copy.request.log_artifact.artifact
        _keep_staged_files(artifact, self.path.with_suffix(".files"))
        return copy

    def _open(self) -> None:
        settings = self._run.settings
        self._journal = Journal(
            self.path,
            {
                "run_id": settings.run_id,
                "wandb_file": str(self._wandb_file),
                "tracking_uri": tracking_uri.shown(self._target_uri),
                "experiment": self._settings.experiment,
                "homes": self._settings.homes,
                "resume": bool(getattr(settings, "resume", None)),
                "secondary": getattr(settings, "x_update_finish_state", True) is False,
                "pid": os.getpid(),
            },
        )
        if getattr(settings, "_shared", False):
            self._note(shared=True)

    def _note(self, **what: Any) -> None:
        try:
            if self._journal is not None:
                self._journal.note(**what)
        except JournalError as error:
            self._give_up(error)

    def _give_up(self, error: JournalError) -> None:
        self._broken = True
        if self._journal is not None:
            with contextlib.suppress(JournalError):
                self._journal.note(broken=True)
        folder = self._wandb_file.parent.parent
        warn_once(
            f"{error}. The run goes on in W&B alone; "
            f"later, `mlflow-wandb backfill {folder}` brings the rest into MLflow"
        )

    # -- the replicator -------------------------------------------------------------------

    def _follow(self) -> None:
        self._replicator.ship(self.path, self._target_uri, self._settings)

    def _wait(self, seconds: float, states: tuple[str, ...]) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            status = read_status(self.path)
            if status.get("state") in states or time.monotonic() > deadline:
                return status
            if not self._replicator.alive():
                return status or {"error": "the replicator did not start"}
            time.sleep(0.02)

    def _wait_for_replica(self) -> None:
        deadline = time.monotonic() + self._settings.finish_timeout
        trouble_since: float | None = None
        line, quiet_until = ProgressLine(), time.monotonic() + 1.0
        while (now := time.monotonic()) < deadline and self._replicator.alive():
            status = read_status(self.path)
            state = status.get("state")
            if state in ("complete", "partial", "failed"):
                break
            trouble_since = (trouble_since or now) if state == "waiting" else None
            if trouble_since is not None and now - trouble_since > TROUBLE_PATIENCE_S:
                break
            if now > quiet_until:
                line.show(f"waiting for the replica in MLflow, {deadline - now:.0f} s at most")
            time.sleep(0.02)
        line.end()
        status = read_status(self.path)
        if status.get("state") != "complete":
            reason = status.get("error") or "MLflow has not taken everything yet"
            warn_once(f"{reason}. `mlflow-wandb sync {self.path.parent.parent}` delivers the rest")

    def _tell_wandb(self, status: dict[str, Any]) -> None:
        """Write the twin's identity into the W&B config, and print it as wandb prints its own."""
        self._told_wandb = True
        keys = identity.config_keys(
            status["run_id"], status["experiment_id"], status["tracking_uri"]
        )
        try:
            self._run.config.update(keys, allow_val_change=True)
        except Exception as error:
            # Whatever wandb makes of it, the user's run goes on.
            warn_once(f"the W&B config cannot name the MLflow run {status['run_id']}: {error}")
        print_line(f"MLflow run {status['run_id']} {status.get('where', '')}".rstrip())


def _keep_staged_files(artifact: Any, folder: Path) -> None:
    """Link (or copy) staged files into ``folder``; the entries then name the copies."""
    for entry in artifact.manifest.contents:
        local = Path(entry.local_path) if entry.local_path else None
        if local is None or "staging" not in local.parts:
            continue
        kept = folder / local.name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not kept.exists():
                _link_or_copy(local, kept)
        except OSError:
            continue
        entry.local_path = str(kept)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
