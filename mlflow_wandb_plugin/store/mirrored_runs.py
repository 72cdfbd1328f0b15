"""Which MLflow runs this process mirrors into W&B, and their journals."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import socket
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.atomic_files import create_atomically
from mlflow_wandb_plugin.core.messages import log_once
from mlflow_wandb_plugin.core.training_settings import load_settings
from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.journal_folder import open_folder
from mlflow_wandb_plugin.mapping import to_wandb
from mlflow_wandb_plugin.store import uris
from mlflow_wandb_plugin.store.journal_writers import Journals, RunFiles
from mlflow_wandb_plugin.store.replicator_start import DeliveryWatch
from mlflow_wandb_plugin.store.tracking_stores import TrackingStores

OWNER_FILE = "owner"
MOST_WAITING_BYTES = 16 * 1024 * 1024
"""Of a run whose journal cannot be written, what waits in memory."""
MOST_REMEMBERED = 20_000
"""Runs and logged models that a process remembers; it asks MLflow again for those it forgot."""


class MirroredRun:
    """An MLflow run that this process mirrors: it appends to the run's journal.

    Attributes:
        files: the run's files beside the journal.
        lost: number of operations that are given up and could not be counted in the journal yet, by
            reason.
    """

    def __init__(self, header: dict[str, Any], journals: Journals, watch: DeliveryWatch) -> None:
        self.run_id = str(header["mlflow_run_id"])
        self.files = RunFiles(journals.folder / f"{self.run_id}.files")
        self.lost: Counter[str] = Counter()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lock = threading.RLock()
        self._header = header
        self._journals = journals
        self._watch = watch

    def append(self, op: str, **fields: Any) -> None:
        """Journal one operation. Never raises."""
        self.append_encoded(_encode(op, **fields))

    def append_encoded(self, payload: bytes) -> None:
        """Journal one operation. Never raises.

        While the journal cannot be written, operations wait in memory, in their order; those that
        do not fit into `MOST_WAITING_BYTES` are counted in ``lost``.
        """
        with self._lock:
            self._waiting.append(payload)
            self._waiting_bytes += len(payload)
            self._write_waiting()
            while self._waiting_bytes > MOST_WAITING_BYTES:
                # The last ones: an operation may need those before it.
                self._waiting_bytes -= len(self._waiting.pop())
                self.lost["operations that the journal did not take"] += 1
        self._watch.check_if_due(self._journals.path(self.run_id))

    def write_waiting(self) -> None:
        """Write what waits, if anything does, once more before the process ends. Never raises."""
        with self._lock:
            if self._waiting or self.lost:
                self._write_waiting()

    def after_fork(self) -> None:
        """In a forked child: what waits is the parent's to write."""
        self._lock = threading.RLock()
        self._waiting, self._waiting_bytes = deque(), 0

    def _write_waiting(self) -> None:
        """Write the operations that wait, and what was lost, as far as the journal takes them."""
        try:
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting_bytes -= len(self._waiting.popleft())
            for what, count in list(self.lost.items()):
                self._write(_encode("lost", what=what, count=count))
                del self.lost[what]
        except JournalError as error:
            log_once(
                f"{error}. MLflow goes on; what W&B is to get waits in this process's memory until "
                "this is mended. If the process ends before, `mlflow-wandb backfill` brings it"
            )

    def _write(self, payload: bytes) -> None:
        self._journals.append(self.run_id, self._header, payload)

    def add_file(self, source: Path, path: str, model: str | None, stored: bool) -> None:
        """Journal a file of the run, and keep its content.

        Args:
            path: its path in the run, or in the logged model ``model``.
            stored: as for `RunFiles.keep`.
        """
        try:
            kept = self.files.keep(source, stored)
        except OSError as error:
            self.append("lost", what=f"file {path}: {error.strerror or error}", count=1)
        else:
            self.add_kept_file(kept, path, model)

    def add_kept_file(self, kept: str, path: str, model: str | None) -> None:
        """Journal a file whose content is in ``files`` already."""
        self.append("file", path=path, file=os.path.basename(kept), model=model)

    def close(self) -> None:
        """Close the journal, because the run has ended or was deleted."""
        self._journals.close(self.run_id)
        self._watch.check(self._journals.path(self.run_id))


def _encode(op: str, **fields: Any) -> bytes:
    return outbox.encode(op, at=time.time_ns() // 1_000_000, **fields)


class Mirror:
    """The runs of all tracking stores that this process mirrors."""

    def __init__(self, folder: Path) -> None:
        server = uris.is_server()
        self.journals = Journals(folder, closes_idle=server)
        self.stores = TrackingStores()
        self._role = "server" if server else "client"
        self._settings = load_settings()
        self._watch = DeliveryWatch(folder)
        self._runs: dict[str, MirroredRun | None] = {}
        self._run_of_model: dict[str, str | None] = {}
        self._lock = threading.Lock()

    @property
    def run_ids(self) -> list[str]:
        return [run_id for run_id, run in list(self._runs.items()) if run is not None]

    @functools.cached_property
    def owner(self) -> str:
        """The value of a run's tag `identity.OWNER`: this outbox, and "client" or "server".

        Raises:
            JournalError: the outbox cannot be written.
        """
        file = self.journals.folder / OWNER_FILE
        try:
            open_folder(file.parent)
            with contextlib.suppress(FileExistsError):
                name = f"{socket.gethostname()[:60]}-{uuid.uuid4().hex[:16]}"
                create_atomically(file, f"{name}\n")
            return f"{file.read_text().strip()}-{self._role}"
        except OSError as error:
            raise JournalError(
                f"cannot write the outbox {file.parent}: {error.strerror}"
            ) from error

    def tags_of_new_run(self, store: Any, experiment_id: str) -> dict[str, str]:
        """The tags with which a run is created that this process mirrors."""
        tags = {identity.OWNER: self.owner, identity.ORIGIN: identity.MIRROR}
        tags[identity.PROJECT] = self._project(store, experiment_id)
        return tags | ({identity.ENTITY: self._entity} if self._entity else {})

    def add_new_run(self, store: Any, run: Any) -> MirroredRun:
        """Mirror a run that was just created with `tags_of_new_run`."""
        mirrored = self._add(store, run)
        name, user, tags = run.info.run_name or "", run.info.user_id or "", dict(run.data.tags)
        mirrored.append("create", name=name, user=user, start_time=run.info.start_time, tags=tags)
        return mirrored

    def ignore(self, run_id: str) -> None:
        """Do not mirror a run: another process mirrors it, or it came from W&B."""
        self._remember(run_id, None)

    def run(self, store: Any, run_id: str) -> MirroredRun | None:
        """The run, if this process mirrors it. A run that no process mirrors yet is added.

        Args:
            store: the mirrored tracking store that is asked for a run that is not known yet.
        """
        try:
            return self._runs[run_id]
        except KeyError:
            return self._find(store, run_id)

    def run_of_model(self, store: Any, model_id: str) -> MirroredRun | None:
        """The run that created a logged model, if this process mirrors it."""
        if model_id not in self._run_of_model:
            model = _unless_absent(store.get_logged_model, model_id)
            if model is None:
                self._remember_model(model_id, None)
            else:
                self.add_model(model)
        run_id = self._run_of_model[model_id]
        if run_id is None:
            return None
        if not run_id:
            log_once("logged models that belong to no run stay in MLflow: W&B keeps them by run")
            return None
        return self.run(store, run_id)

    def add_model(self, model: Any) -> None:
        self._remember_model(model.model_id, model.source_run_id or "")

    def record_failure(self, what: str, error: Exception, subject: object) -> None:
        """Count and show an unexpected error in mirroring an operation.

        Args:
            what: name of MLflow's method.
            subject: its first argument, in most methods a run's id.
        """
        run = self._runs.get(subject) if isinstance(subject, str) else None
        if run is not None:
            run.lost[f"{what}, for {type(error).__name__}"] += 1
        log_once(f"{what} reached MLflow, but not W&B's journal: {type(error).__name__}: {error}")

    def after_fork(self) -> None:
        """In a forked child: another thread may have held the lock."""
        self._lock = threading.Lock()
        for run in self._runs.values():
            if run is not None:
                run.after_fork()

    def write_waiting(self) -> None:
        """As `MirroredRun.write_waiting`, for all runs."""
        for run in list(self._runs.values()):
            if run is not None:
                run.write_waiting()

    def _find(self, store: Any, run_id: str) -> MirroredRun | None:
        run = _unless_absent(store.get_run, run_id)
        if run is None:
            self.ignore(run_id)
            return None
        tags = identity.present_tags(run.data.tags)
        owner, origin = tags.get(identity.OWNER), tags.get(identity.ORIGIN)
        if owner == self.owner:
            return self._add(store, run)
        if owner is None and origin in (None, identity.MIRROR):
            return self._adopt(store, run)
        self.ignore(run_id)
        if owner is not None and self._role == "client":
            outcome = "what this process logs to it stays in MLflow, unless the server mirrors it"
            log_once(f"run {run_id} is mirrored into W&B by {owner}: {outcome}")
        return None

    def _adopt(self, store: Any, run: Any) -> MirroredRun | None:
        """Mirror a run that was created without a mirror, from its present state on."""
        from mlflow.entities import RunTag

        run_id = run.info.run_id
        for key, value in self.tags_of_new_run(store, run.info.experiment_id).items():
            store.set_tag(run_id, RunTag(key, value))
        run = store.get_run(run_id)
        if run.data.tags.get(identity.OWNER) != self.owner:
            self.ignore(run_id)
            return None
        mirrored = self.add_new_run(store, run)
        metrics = [[m.key, m.value, m.timestamp, m.step] for m in run.data._metric_objs]
        if metrics or run.data.params:
            mirrored.append("batch", metrics=metrics, params=dict(run.data.params), tags={})
        if metrics:
            what = "metrics logged before the run was mirrored, except for their last points"
            mirrored.append("lost", what=what, count=len(metrics))
        return mirrored

    def _add(self, store: Any, run: Any) -> MirroredRun:
        info = run.info
        header = {
            "born": outbox.BORN,
            "role": self._role,
            "mlflow_run_id": info.run_id,
            "experiment_id": str(info.experiment_id),
            "experiment": self.stores.experiment_name(store, str(info.experiment_id)),
            "tracking_uri": self.stores.uri(store),
            "project": self._project(store, info.experiment_id),
            "entity": self._entity,
        }
        mirrored = MirroredRun(header, self.journals, self._watch)
        self._remember(info.run_id, mirrored)
        return mirrored

    def _remember(self, run_id: str, run: MirroredRun | None) -> None:
        with self._lock:
            if len(self._runs) >= MOST_REMEMBERED:
                self._runs.pop(next(iter(self._runs)))
            self._runs[run_id] = run

    def _remember_model(self, model_id: str, run_id: str | None) -> None:
        """Remember the run of a logged model: empty if it has none, None if it is not ours."""
        with self._lock:
            if len(self._run_of_model) >= MOST_REMEMBERED:
                self._run_of_model.clear()
            self._run_of_model[model_id] = run_id

    def _project(self, store: Any, experiment_id: str) -> str:
        name = self.stores.experiment_name(store, str(experiment_id))
        return to_wandb.project_name(self._settings.mirror_project, name)

    @property
    def _entity(self) -> str:
        return self._settings.mirror_entity or os.environ.get("WANDB_ENTITY", "")


def _unless_absent(get: Callable[[str], Any], resource_id: str) -> Any:
    """What a store returns for an id; None if it has nothing of this id."""
    from mlflow.exceptions import MlflowException

    try:
        return get(resource_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


stand_in: ContextVar[Any] = ContextVar("mlflow_wandb_stand_in", default=None)
"""What operations get in place of this process's mirror: `store.active_run` uses them for runs that
no mirror has."""
_mirror: Mirror | None = None
_creating = threading.Lock()


def current_mirror() -> Mirror:
    """The mirror of this process, created at the first call.

    Raises:
        UsageError: a setting is invalid.
    """
    global _mirror
    instead: Mirror | None = stand_in.get()
    if instead is not None:
        return instead
    if _mirror is None:
        with _creating:
            if _mirror is None:
                _mirror = Mirror(outbox.folder())
    return _mirror


def _after_fork() -> None:
    global _creating
    _creating = threading.Lock()
    if _mirror is not None:
        _mirror.after_fork()


def _at_exit() -> None:
    if _mirror is not None:
        _mirror.write_waiting()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
