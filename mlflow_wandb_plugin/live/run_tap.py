"""One run in the training process that is replicated to MLflow: its journal, and how it ends."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core import identity, tracking_uri
from mlflow_wandb_plugin.core.atomic_files import link_or_copy
from mlflow_wandb_plugin.core.private_files import private_folder
from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal import frames
from mlflow_wandb_plugin.journal.frames import JOURNAL_DIR
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.journal.status_file import LEFT_OUT, read_status
from mlflow_wandb_plugin.journal.writer import Journal
from mlflow_wandb_plugin.live.mlflow_calls import MlflowCalls
from mlflow_wandb_plugin.live.replicator_process import Replicator
from mlflow_wandb_plugin.live.terminal import ProgressLine, heed, print_line, warn_once
from mlflow_wandb_plugin.settings import Settings
from mlflow_wandb_plugin.wandb_log.run_folders import segment_of

STAGING = ("artifacts", "staging")
"""The end of the path of wandb's staging folder."""
_NOT_ACTIVE = "the replica is not MLflow's active run: MLflow's calls log to runs of their own"
_WAITS = "what MLflow's calls log goes to W&B, and to MLflow with the journal of this run"
LATE_POLL_S = 0.1
"""Between two looks whether an MLflow that was too slow for `wandb.init` has answered."""
LATE_S = 10.0
"""After this time without an answer of MLflow there is a warning; `wandb.init` waits as long for it
where the replica is to be MLflow's active run."""
TROUBLE_PATIENCE_S = 10.0
"""How long `Run.finish` waits for an MLflow that does not answer."""


class RunTap:
    """Journals the records that the wandb SDK sends for one run. Raises nothing into user code.

    Attributes:
        lock: held while a record is sent to wandb and journalled, so that the order is the same.
        pid: of the process that started the run; 0 for another one, which handed the run over.
        path: the run's journal.
        calls: what MLflow's calls log to the replica, while that is MLflow's active run.
        active_run: that run, or the one that stands for it until MLflow answers; else None.
    """

    def __init__(self, run: Any, settings: Settings) -> None:
        self.lock = threading.RLock()
        self.pid = os.getpid()
        self.closed = False
        self._run = run
        self._settings = settings
        self._wandb_file = Path(run.settings.sync_file).absolute()
        folder = settings.journal_dir or self._wandb_file.parent.parent / JOURNAL_DIR
        self.path = Path(folder).absolute() / f"{segment_of(self._wandb_file)}{frames.SUFFIX}"
        if trainer_alive(self.path):
            self.pid = 0
        self._journal: Journal | None = None
        self._broken = False
        self._target_uri = tracking_uri.uri(settings)
        # Before the run is created, so that it is ready when wandb is.
        self._replicator = Replicator.start(self.path.parent, self._target_uri)
        self._naming, self._named, self._printed = threading.Lock(), False, False
        self.calls: MlflowCalls | None = None
        self.active_run: Any = None
        self._quiet = heed(run.settings)

    def on_start(self) -> None:
        """At the end of `wandb.init`: have the journal shipped, and wait for the MLflow run id."""
        if self._journal is None:
            return
        if self._settings.mlflow_active:
            # First of all: the replicator must know it when it opens the run.
            self._update_wandb_config({identity.CALLS_CONFIG_KEY: {"active": True}})
        self._replicator.ship(self.path, self._target_uri, self._settings)
        warn_at = time.monotonic() + LATE_S
        status = self._wait_for_answer(LATE_S if self._settings.mlflow_active else 0.0)
        named = self._name_replica(status)
        if self._settings.mlflow_active:
            self._make_active(status)
        if named:
            return
        self._warn_if_late(status, warn_at)
        threading.Thread(
            target=self._name_late_replica, args=(warn_at,), name="mlflow-wandb", daemon=True
        ).start()

    def before_finish(self) -> None:
        """Before `Run.finish`: wandb accepts no change of the config of a finished run."""
        if not self.closed and self.pid == os.getpid():
            self._name_replica(read_status(self.path), last=True)
        if self.calls is not None and not self.closed:
            self.calls.end()

    def after_finish(self, uploaded: bool = True) -> None:
        """After `Run.finish`: close the journal and wait for the run in MLflow to be complete.

        ``uploaded``: whether `Run.finish` returned after wandb had uploaded everything.
        """
        with self.lock:
            if self.closed or self._journal is None or self.pid != os.getpid():
                return
            self.closed = True
            self._note(closed=True, broken=self._broken, uploaded=uploaded)
            self._journal.close()
        self._make_inactive()
        self._wait_for_replica()

    def join(self) -> None:
        """Note that this process logs into a run that another one has started: the parent of a
        fork, or one that handed it over. Only wandb-core's file has the order of the rows."""
        try:
            if self._journal is None:
                self._open_journal()
        except JournalError as error:
            self._give_up(error)
        self._note(rows_from_file=True, pid=os.getpid())

    def write(self, record: Any) -> None:
        """Journal one record that wandb has accepted. The caller holds the lock."""
        if self._broken:
            return
        try:
            journal = self._journal or self._open_journal()
            journal.append(frames.RECORD, record.SerializeToString())
        except JournalError as error:
            self._give_up(error)

    def kept(self, record: Any, kind: str) -> Any:
        """Return what to journal of a record of type ``kind``. The caller holds the lock."""
        if kind in ("artifact", "request.log_artifact"):
            return self.keep_artifact_files(record)
        if kind == "request.partial_history" and self.calls is not None:
            try:
                self.calls.see(record)
            except Exception as error:
                # Whatever the error is, the user's row is logged.
                warn_once(f"numbers that MLflow's calls log as well may be doubled: {error}")
        if kind == "tbrecord":
            # TensorBoard feeds the run: only wandb-core's file has the rows.
            self._note(rows_from_file=True)
        return record

    def keep_artifact_files(self, record: Any) -> Any:
        """Keep an artifact's staged files, which wandb-core deletes once they are uploaded.

        Returns:
            The record to journal; it has the paths of the kept files.
        """
        if self._broken:
            return record
        copy = type(record)()
        copy.CopyFrom(record)
        kind = copy.WhichOneof("record_type")
        artifact = copy.artifact if kind == "artifact" else copy.request.log_artifact.artifact
        _keep_staged_files(artifact, self.path.with_suffix(".files"))
        return copy

    def make_active(self) -> None:
        """Make the replica MLflow's active run in this thread, though the settings did not say so.

        Does nothing if it is already, in whichever thread, or was.
        """
        if self.calls is None and self._journal is not None and not self.closed:
            self._update_wandb_config({identity.CALLS_CONFIG_KEY: {"active": True}})
            self._make_active(self._wait_for_answer(LATE_S))

    def _make_active(self, status: Mapping[str, Any]) -> None:
        """Make the replica MLflow's active run in this thread, unless it has another one.

        Where MLflow does not answer, a run that stands for the replica is active.
        """
        from mlflow_wandb_plugin.store import active_run, waiting_store

        try:
            before = active_run.active_run_id()
            if before:
                if not active_run.is_replica(before):
                    warn_once(f"MLflow's active run {before} stays; {_NOT_ACTIVE}")
                return
            run = self._replica(status)
            calls = MlflowCalls(self._run, self._settings.secret_names, waits=run is None)
            if run is None:
                active_run.use_tracking_uri(self._target_uri)
                run = waiting_store.create_run(self._run.name or self._run.id)
            self.active_run = active_run.begin(run, calls)
        except Exception as error:
            # Whatever the error is, the user's run goes on.
            warn_once(f"{_NOT_ACTIVE}: {error}")
            return
        self.calls = calls

    def _replica(self, status: Mapping[str, Any]) -> Any:
        """Return MLflow's run; None, with a warning, if MLflow does not say what it is."""
        from mlflow_wandb_plugin.store import active_run

        patience_s = max(self._settings.init_timeout, LATE_S)
        try:
            if status.get("run_id"):
                return active_run.fetch(self._target_uri, status["run_id"], patience_s)
            reason = status.get("error") or _what_is_late(dict(status), "answered")
        except Exception as error:
            reason = str(error)
        warn_once(f"{reason}: {_WAITS}")
        return None

    def _make_inactive(self) -> None:
        if self.active_run is not None:
            from mlflow_wandb_plugin.store import active_run

            active_run.end(self.active_run.info.run_id)
            self.active_run = None

    def _open_journal(self) -> Journal:
        settings = self._run.settings
        journal = self._journal = Journal(
            self.path,
            {
                "run_id": settings.run_id,
                "wandb_file": str(self._wandb_file),
                "tracking_uri": tracking_uri.shown(self._target_uri),
                "experiment": self._settings.experiment,
                "homes": self._settings.homes,
                "secret_names": self._settings.secret_names,
                "steps": self._settings.steps,
                "resume": bool(getattr(settings, "resume", None)),
                "secondary": getattr(settings, "x_update_finish_state", True) is False,
                "pid": os.getpid(),
            },
        )
        if getattr(settings, "_shared", False):
            # wandb's shared mode: other processes log into the run at the same time.
            self._note(shared=True)
        return journal

    def _note(self, **fields: Any) -> None:
        try:
            if self._journal is not None:
                self._journal.note(**fields)
        except JournalError as error:
            self._give_up(error)

    def _give_up(self, error: JournalError) -> None:
        self._broken = True
        if self._journal is not None:
            with contextlib.suppress(JournalError):
                self._journal.note(broken=True)
        later = f"`mlflow-wandb backfill {self._wandb_file.parent.parent}`"
        warn_once(
            f"{error}. The run goes on in W&B alone; later, {later} brings the rest into MLflow"
        )

    def _wait_for_answer(self, at_least_s: float) -> dict[str, Any]:
        patience_s = max(self._settings.init_timeout, at_least_s)
        deadline = time.monotonic() + patience_s
        while True:
            status = read_status(self.path)
            answered = status.get("state") in ("live", "waiting", "failed", LEFT_OUT)
            if answered or time.monotonic() > deadline:
                return status
            if self._replicator.trouble:
                return status or {"error": self._replicator.trouble}
            time.sleep(0.02)

    def _wait_for_replica(self) -> None:
        deadline = time.monotonic() + self._settings.finish_timeout
        trouble_since: float | None = None
        line, quiet_until = ProgressLine(self._quiet), time.monotonic() + 1.0
        while (now := time.monotonic()) < deadline and not self._replicator.trouble:
            status = read_status(self.path)
            state = status.get("state")
            if state in ("complete", "partial", "failed", LEFT_OUT):
                break
            trouble_since = (trouble_since or now) if state == "waiting" else None
            if trouble_since is not None and now - trouble_since > TROUBLE_PATIENCE_S:
                break
            if now > quiet_until:
                line.show(f"waiting for the replica in MLflow, {deadline - now:.0f} s at most")
            time.sleep(0.02)
        line.end()
        status = read_status(self.path)
        # Of a run that ended before MLflow had answered.
        self._print_replica(status)
        if status.get("state") not in ("complete", LEFT_OUT):
            reason = status.get("error") or _what_is_late(status, "taken everything")
            warn_once(f"{reason}. `mlflow-wandb sync {self.path.parent.parent}` delivers the rest")

    def _name_late_replica(self, warn_at: float) -> None:
        """Wait until MLflow answers, or the run ends, and name the MLflow run.

        Args:
            warn_at: time of `time.monotonic` from which it is late.
        """
        while not self._named and not self._name_replica(status := read_status(self.path)):
            self._warn_if_late(status, warn_at)
            time.sleep(LATE_POLL_S)

    def _warn_if_late(self, status: dict[str, Any], warn_at: float) -> None:
        reason = status.get("error")
        if not reason and time.monotonic() > warn_at:
            reason = _what_is_late(status, "answered")
        if reason:
            warn_once(f"{reason}; training goes on, the journal keeps everything for MLflow")

    def _name_replica(self, status: dict[str, Any], last: bool = False) -> bool:
        """Add the MLflow run's id and location to the W&B config, and print them, once they are
        known; returns whether there is no more to wait for.

        Args:
            last: do not do it later: the run ends.
        """
        run_id = status.get("run_id")
        left_out = status.get("state") == LEFT_OUT
        with self._naming:
            if run_id and not self._named:
                where = status["experiment_id"], status["tracking_uri"]
                self._update_wandb_config(identity.config_keys(run_id, *where))
                self._print_replica(status)
            self._named = self._named or bool(run_id) or last or left_out
        return bool(run_id) or left_out

    def _print_replica(self, status: dict[str, Any]) -> None:
        """Print the MLflow run's id and location, once they are known."""
        if status.get("run_id") and not (self._quiet or self._printed):
            self._printed = True
            print_line(f"MLflow run {status['run_id']} {status.get('where', '')}".rstrip())

    def _update_wandb_config(self, values: Mapping[str, Any]) -> None:
        try:
            self._run.config.update(dict(values), allow_val_change=True)
        except Exception as error:
            # Whatever the error is, the user's run goes on.
            warn_once(f"the W&B config does not take {', '.join(values)}: {error}")


def _what_is_late(status: dict[str, Any], done: str) -> str:
    """Why there is no answer yet: before the first status, the replicator still starts."""
    if not status.get("state"):
        return "the process that writes to MLflow is still starting"
    return f"MLflow has not {done} yet"


def _keep_staged_files(artifact: Any, folder: Path) -> None:
    """Link or copy an artifact's staged files into ``folder``; its entries get the new paths.

    wandb's staging folder has copies of the user's files, which nobody writes into.
    """
    for entry in artifact.manifest.contents:
        local = Path(entry.local_path)
        if local.parent.parts[-2:] == STAGING:
            kept = folder / local.name
            with contextlib.suppress(OSError):
                private_folder(folder, tighten=True)
                if not kept.exists():
                    link_or_copy(local, kept)
                entry.local_path = str(kept)
