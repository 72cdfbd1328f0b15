"""What this process mirrors: which runs are its own to mirror, and their journals."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
import weakref
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.errors import JournalError
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.journal.status import read_status
from mlflow_wandb_plugin.mapping import to_wandb
from mlflow_wandb_plugin.settings import Settings
from mlflow_wandb_plugin.store import api_key, forwarder_process, uris
from mlflow_wandb_plugin.store.journal_writers import Journals
from mlflow_wandb_plugin.store.log_messages import warn_once

OWNER_FILE = "owner"
KNOWN_AT_MOST = 20_000
LOOK_EVERY_S = 5.0
NO_KEY = "no API key"
TERMINAL = ("FINISHED", "FAILED", "KILLED")


class MirroredRun:
    """One run that is this process's to mirror."""

    def __init__(self, mirror: Mirror, run_id: str, header: dict[str, Any]) -> None:
        self._mirror = mirror
        self.run_id = run_id
        self.header = header
        self.lost: Counter[str] = Counter()

    def append(self, op: str, **fields: Any) -> None:
        """Journal one operation; one that cannot be is counted, and the count follows."""
        self._mirror.append(self, outbox.encode(op, at=time.time_ns() // 1_000_000, **fields))

    def file(self, source: Path, path: str, model: str | None = None, stored: bool = False) -> None:
        """Journal a file of the run, its content kept beside the journal.

        Args:
            path: where it is in the run, or in the logged model ``model``.
            stored: ``source`` is an artifact store's own copy, which nobody writes to again.
        """
        try:
            kept = self._mirror.keep(self.run_id, source, stored)
        except OSError as error:
            self.append("lost", what=f"file {path}: {error.strerror or error}", count=1)
        else:
            self.kept(kept, path, model)

    def new_file(self) -> BinaryIO:
        """A file to fill, where the run's files are kept.

        Raises:
            OSError: the disk is full, or not ours to write.
        """
        return open(self._mirror.files(self.run_id) / uuid.uuid4().hex, "wb")

    def kept(self, file: str, path: str, model: str | None) -> None:
        """Journal a file whose content is where the run's files are kept."""
        self.append("file", path=path, file=os.path.basename(file), model=model)


class Mirror:
    """The mirror of this process, whatever stores it is of."""

    def __init__(self, folder: Path) -> None:
        server = uris.is_server()
        self.journals = Journals(folder, closes_idle=server)
        self._role = "server" if server else "client"
        self._settings = Settings.load()
        self._runs: dict[str, MirroredRun | None] = {}
        self._stores: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._experiments: weakref.WeakKeyDictionary[Any, dict[str, str]] = (
            weakref.WeakKeyDictionary()
        )
        self._models: dict[str, str] = {}
        self._next_look = 0.0
        self._told: set[str] = set()
        self._lock = threading.Lock()

    @property
    def run_ids(self) -> list[str]:
        """The runs that this process mirrors."""
        return [run_id for run_id, run in list(self._runs.items()) if run is not None]

    # -- stores ---------------------------------------------------------------------------

    def add_store(self, store: Any, uri: str) -> None:
        """A mirrored tracking store.

        Args:
            uri: its tracking URI, without credentials.
        """
        self._stores[store] = uri

    def tracking_store(self) -> Any:
        """A store to ask for runs, where none is given: artifacts and versions name runs only."""
        for store in reversed(list(self._stores)):
            return store
        if uris.is_server():
            from mlflow.server import handlers

            return handlers._get_tracking_store()
        from mlflow.tracking._tracking_service import utils

        untyped: Any = utils
        return untyped._get_store()

    @functools.cached_property
    def owner(self) -> str:
        """Who we are in a run's tag: an outbox, and whether a client or a server fills it.

        Raises:
            JournalError: the outbox cannot be written.
        """
        file = self.journals.folder / OWNER_FILE
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                _create_whole(file, f"{socket.gethostname()[:60]}-{uuid.uuid4().hex[:16]}")
            return f"{file.read_text().strip()}-{self._role}"
        except OSError as error:
            message = f"cannot write the outbox {file.parent}: {error.strerror}"
            raise JournalError(message) from error

    # -- runs -----------------------------------------------------------------------------

    def tags_of_new_run(self, store: Any, experiment_id: str) -> dict[str, str]:
        """What a run says of its mirror from its first moment on."""
        project = self._project(store, experiment_id)
        tags = {
            identity.OWNER: self.owner,
            identity.ORIGIN: identity.MIRROR,
            identity.PROJECT: project,
        }
        return tags | ({identity.ENTITY: self._entity} if self._entity else {})

    def created(self, store: Any, run: Any) -> MirroredRun:
        """A run that was just created, with our tags."""
        mirrored = self._remember(store, run)
        mirrored.append(
            "create",
            name=run.info.run_name or "",
            user=run.info.user_id or "",
            start_time=run.info.start_time,
            tags=dict(run.data.tags),
        )
        return mirrored

    def not_ours(self, run_id: str) -> None:
        """Somebody else mirrors the run, or it came from W&B."""
        self._note(run_id, None)

    def _note(self, run_id: str, run: MirroredRun | None) -> None:
        with self._lock:
            if len(self._runs) >= KNOWN_AT_MOST:
                self._runs.pop(next(iter(self._runs)))
            self._runs[run_id] = run

    def run(self, store: Any, run_id: str) -> MirroredRun | None:
        """The run, if it is ours to mirror. One that nobody mirrors yet becomes ours.

        Args:
            store: the tracking store that has it; None asks one that this process knows.
        """
        try:
            return self._runs[run_id]
        except KeyError:
            return self._meet(self.tracking_store() if store is None else store, run_id)

    def run_of_model(self, store: Any, model_id: str) -> MirroredRun | None:
        """The run that made a logged model, if it is ours."""
        if model_id not in self._models:
            store = self.tracking_store() if store is None else store
            self.made(store.get_logged_model(model_id))
        run_id = self._models[model_id]
        if not run_id:
            warn_once("logged models that belong to no run stay in MLflow: W&B keeps them by run")
            return None
        return self.run(store, run_id)

    def made(self, model: Any) -> None:
        """Remember which run made a logged model."""
        if len(self._models) >= KNOWN_AT_MOST:
            self._models.clear()
        self._models[model.model_id] = model.source_run_id or ""

    def _meet(self, store: Any, run_id: str) -> MirroredRun | None:
        run = store.get_run(run_id)
        tags = run.data.tags
        owner, origin = tags.get(identity.OWNER), tags.get(identity.ORIGIN)
        if owner == self.owner:
            return self._remember(store, run)
        if owner is None and origin in (None, identity.MIRROR):
            return self._adopt(store, run)
        self.not_ours(run_id)
        if owner is not None and self._role == "client":
            warn_once(
                f"run {run_id} is mirrored into W&B by {owner}: what this process logs to it stays "
                "in MLflow, unless the server mirrors it"
            )
        return None

    def _adopt(self, store: Any, run: Any) -> MirroredRun | None:
        """Take on a run that was begun without a mirror."""
        from mlflow.entities import RunTag

        run_id = run.info.run_id
        for key, value in self.tags_of_new_run(store, run.info.experiment_id).items():
            store.set_tag(run_id, RunTag(key, value))
        run = store.get_run(run_id)
        if run.data.tags.get(identity.OWNER) != self.owner:
            self.not_ours(run_id)
            return None
        mirrored = self.created(store, run)
        metrics = [[m.key, m.value, m.timestamp, m.step] for m in run.data._metric_objs]
        if metrics or run.data.params:
            mirrored.append("batch", metrics=metrics, params=dict(run.data.params), tags={})
        if metrics:
            what = "metrics logged before the run was mirrored, except for their last points"
            mirrored.append("lost", what=what, count=len(metrics))
        return mirrored

    def _remember(self, store: Any, run: Any) -> MirroredRun:
        info = run.info
        header = {
            "born": outbox.BORN,
            "role": self._role,
            "mlflow_run_id": info.run_id,
            "experiment_id": str(info.experiment_id),
            "experiment": self._experiment(store, info.experiment_id),
            "tracking_uri": self._stores.get(store, ""),
            "project": self._project(store, info.experiment_id),
            "entity": self._entity,
        }
        mirrored = MirroredRun(self, info.run_id, header)
        self._note(info.run_id, mirrored)
        return mirrored

    def _experiment(self, store: Any, experiment_id: str) -> str:
        names = self._experiments.setdefault(store, {})
        if str(experiment_id) not in names:
            names[str(experiment_id)] = store.get_experiment(experiment_id).name
        return names[str(experiment_id)]

    def renamed(self, store: Any, experiment_id: str) -> None:
        """An experiment has a new name: runs to come go to the project of that name."""
        self._experiments.setdefault(store, {}).pop(str(experiment_id), None)

    def _project(self, store: Any, experiment_id: str) -> str:
        return to_wandb.project_name(
            self._settings.mirror_project, self._experiment(store, experiment_id)
        )

    @property
    def _entity(self) -> str:
        return self._settings.mirror_entity or os.environ.get("WANDB_ENTITY", "")

    # -- journals -------------------------------------------------------------------------

    def append(self, run: MirroredRun, payload: bytes) -> None:
        """Write an operation to the run's journal. Never raises."""
        try:
            if run.lost:
                self._append_losses(run)
            self.journals.append(run.run_id, run.header, payload)
        except JournalError as error:
            run.lost["operations that the journal did not take"] += 1
            warn_once(f"{error}. MLflow goes on; W&B lacks what is logged until this is mended")
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY_S
            self.look(run)

    def _append_losses(self, run: MirroredRun) -> None:
        for what, count in list(run.lost.items()):
            payload = outbox.encode("lost", at=time.time_ns() // 1_000_000, what=what, count=count)
            self.journals.append(run.run_id, run.header, payload)
            del run.lost[what]

    def ended(self, run: MirroredRun) -> None:
        """The run has ended, for now."""
        self.journals.close(run.run_id)
        self.look(run)

    def look(self, run: MirroredRun) -> None:
        """See to it that somebody delivers, and say what hinders them, once."""
        forwarder_process.ensure_running(self.journals.folder)
        trouble = self._trouble(run)
        kind = NO_KEY if NO_KEY in trouble else trouble
        if trouble and kind not in self._told:
            self._told.add(kind)
            warn_once(
                f"{trouble}. MLflow goes on as ever; "
                f"`mlflow-wandb sync {self.journals.folder}` delivers to W&B later"
            )

    def _trouble(self, run: MirroredRun) -> str:
        """Of this run, of an earlier one, or what is to be foreseen."""
        status = read_status(self.journals.path(run.run_id))
        if status.get("state") in outbox.STUCK:
            return str(status.get("error") or "")
        if api_key.is_missing():
            return f"{NO_KEY} for W&B: set WANDB_API_KEY, or run `wandb login`"
        earlier = outbox.read_trouble(self.journals.folder)
        return earlier and f"earlier runs wait for W&B: {earlier}"

    def failed(self, what: str, error: Exception, subject: object) -> None:
        """Mirroring an operation failed, in a way that nobody foresaw.

        Args:
            subject: the operation's first argument, mostly the id of a run.
        """
        run = self._runs.get(subject) if isinstance(subject, str) else None
        if run is not None:
            run.lost[f"{what}, for {type(error).__name__}"] += 1
        warn_once(f"{what} reached MLflow, but not W&B's journal: {type(error).__name__}: {error}")

    def files(self, run_id: str) -> Path:
        """The folder of a run's files."""
        folder = self.journals.folder / f"{run_id}.files"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def keep(self, run_id: str, source: Path, stored: bool) -> str:
        """Keep a file's content beside the journal; returns its name in the run's files folder.

        A second name costs nothing, but shows what is written into the file later: only for
        files that are rewritten by nobody, else a copy.

        Raises:
            OSError: it is gone, or the disk is full.
        """
        folder = self.files(run_id)
        name = uuid.uuid4().hex
        if stored or source.resolve().is_relative_to(tempfile.gettempdir()):
            with contextlib.suppress(OSError):
                os.link(source, folder / name)
                return name
        try:
            shutil.copyfile(source, folder / name)
        except OSError:
            (folder / name).unlink(missing_ok=True)
            raise
        return name


def _create_whole(file: Path, text: str) -> None:
    """Create ``file`` with its content in one step.

    Raises:
        FileExistsError: somebody else did.
    """
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    temporary.write_text(text + "\n")
    try:
        os.link(temporary, file)
    finally:
        temporary.unlink()


_mirror: Mirror | None = None
_making = threading.Lock()


def of_this_process() -> Mirror:
    """The mirror of this process; made when the first store is.

    Raises:
        UsageError: a setting does not fit.
    """
    global _mirror
    if _mirror is None:
        with _making:
            if _mirror is None:
                _mirror = Mirror(outbox.folder())
    return _mirror


def forget() -> None:
    """Begin anew, as a new process would; for tests."""
    global _mirror
    _mirror = None


def _after_fork() -> None:
    global _making
    _making = threading.Lock()
    if _mirror is not None:
        _mirror._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
