"""The tap: write every record that the wandb SDK sends to wandb-core to a journal, too.

All of wandb's private API that the package relies on while training is in this file:
`Run._set_backend`, called once for every run and again in forked children, `Run._on_start` at the
end of `wandb.init`, `Run._finish`, and the interface's `_publish` and `_deliver`. Where one of them
is missing, `install` raises an error and changes nothing. `Run._finish_timed_out`, where it exists,
is true after wandb gave up uploading. The interface's `_publish_partial_history` is replaced where
`sends_rows_as_known`. `_WandbInit.set_sync_dir_suffix`, where it exists, names a run's folder.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.core.training_settings import load_settings
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.journal import outbox
from mlflow_wandb_plugin.live.replicator_process import Replicator
from mlflow_wandb_plugin.live.run_tap import RunTap
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.live.unsent_rows import log_unsent
from mlflow_wandb_plugin.live.workers import follow
from mlflow_wandb_plugin.settings import Settings

# The records that replication needs. All others (telemetry, console, polling) are no data of the
# run, or are in wandb-core's file as well.
KEPT_KINDS = frozenset((
    "run", "config", "metric", "history", "summary", "files", "artifact", "use_artifact", "exit",
    "alert",
    "preempting", "tbrecord", "request.run_start", "request.partial_history",
    "request.log_artifact",
))  # fmt: skip
_KEPT_REQUESTS = {
    kind.partition(".")[2]: kind for kind in KEPT_KINDS if kind.startswith("request.")
}

_UNFIT_FOR_FOLDERS = re.compile(r"[^\w.-]")
LONGEST_LABEL = 64
"""Characters of a process's label in the name of its folder."""

_settings = Settings()
_override: ContextVar[Settings | None] = ContextVar("mlflow_wandb_settings", default=None)
_installed = False
_offline_init: Any = None
_taps: dict[str, RunTap] = {}
_lock = threading.Lock()


def install(settings: Settings) -> None:
    """Replicate every run that starts from now on; with ``homes="wandb"`` none.

    Raises:
        MlflowWandbError: the installed wandb lacks the methods that the tap wraps.
    """
    global _settings, _installed
    _settings = settings
    if settings.homes == "wandb" and not _installed:
        return
    if settings.homes == "mlflow":
        _force_offline()
    run = run_class()
    follow(sys.modules["wandb"], settings)
    with _lock:
        if _installed:
            return
        run._set_backend = _wrap_set_backend(run._set_backend)
        run._on_start = _wrap_on_start(run._on_start)
        run._finish = _wrap_finish(run._finish)
        _keep_folders_apart()
        _installed = True
    _start_replicator_early(settings)
    if "WANDB_SERVICE" not in os.environ:
        # If it is registered before wandb's own exit hook, it runs after it, when wandb-core has
        # ended the runs that the script left open. Else the replicator notices that this process
        # has ended, and this process does not wait.
        atexit.register(_finish_open_runs)


def _start_replicator_early(settings: Settings) -> None:
    """Start the replicator while the script imports its frameworks, for runs in wandb's default
    folder."""
    if os.environ.get("WANDB_MODE") != "disabled":
        folder = Path(settings.journal_dir).absolute() if settings.journal_dir else outbox.folder()
        Replicator.start(folder, tracking_uri.uri(settings))


def is_installed() -> bool:
    return _installed


def settings() -> Settings:
    """The settings of a run that starts now, in this thread or task."""
    return _override.get() or (_settings if _installed else load_settings())


@contextmanager
def using(**changes: Any) -> Iterator[None]:
    """Replicate the runs that start in this context, with changed settings; runs of other threads
    or tasks keep theirs.

    Args:
        changes: fields of `mlflow_wandb_plugin.settings.Settings`.

    Raises:
        UsageError: a setting is unknown or its value is invalid.
        MlflowWandbError: as for `install`.
    """
    changed = load_settings(**{**dataclasses.asdict(settings()), **changes})
    if not _installed and changed.homes != "wandb":
        install(load_settings())
    if changed.homes == "mlflow":
        _force_offline()
    token = _override.set(changed)
    try:
        yield
    finally:
        _override.reset(token)


def run_class() -> Any:
    """wandb's Run, whose methods the tap wraps.

    Raises:
        MlflowWandbError: it lacks them.
    """
    import wandb

    found: Any = getattr(wandb, "Run", None)
    if not all(hasattr(found, name) for name in ("_set_backend", "_on_start", "_finish")):
        raise MlflowWandbError(
            f"mlflow-wandb-plugin does not know how to follow wandb {wandb.__version__}: "
            "use a version that its package metadata allows"
        )
    return found


def follows(run: Any) -> bool:
    tap = tap_of(run)
    return tap is not None and not tap.closed


def tap_of(run: Any) -> RunTap | None:
    """The tap of a run, if it has one."""
    return _taps.get(run.settings.run_id)


def _wrap_set_backend(set_backend: Any) -> Any:
    @functools.wraps(set_backend)
    def wrapper(run: Any, backend: Any) -> Any:
        result = set_backend(run, backend)
        if settings().homes != "wandb":
            try:
                _attach(run, getattr(backend, "interface", backend))
            except Exception as error:
                # Whatever the error is, the user's run goes on.
                warn_once(f"this run is not replicated to MLflow: {error}")
        return result

    return wrapper


def _wrap_on_start(on_start: Any) -> Any:
    @functools.wraps(on_start)
    def wrapper(run: Any) -> Any:
        result = on_start(run)
        if tap_of(run) is not None:
            log_unsent(run)
        return result

    return wrapper


def _wrap_finish(finish: Any) -> Any:
    @functools.wraps(finish)
    def wrapper(run: Any, *args: Any, **kwargs: Any) -> Any:
        tap = tap_of(run)
        if tap is not None:
            tap.before_finish()
        uploaded = False
        try:
            result = finish(run, *args, **kwargs)
            uploaded = not getattr(run, "_finish_timed_out", False)
            return result
        finally:
            # Only now has wandb-core written the end of its file of the run.
            if tap is not None:
                tap.after_finish(uploaded)
                if tap.closed and tap_of(run) is tap:
                    del _taps[run.settings.run_id]

    return wrapper


def _keep_folders_apart() -> None:
    """Give each process that shares a run a folder of its own, named after its `x_label`.

    A run's folder has the time to the second and the run's id in its name. wandb adds a number if
    it exists; two processes may look at the same time, and would then write one `.wandb` file,
    which keeps the rows of one of them.
    """
    from wandb.sdk import wandb_init

    starting: Any = getattr(wandb_init, "_WandbInit", None)
    original = getattr(starting, "set_sync_dir_suffix", None)
    if original is None:
        return

    @functools.wraps(original)
    def set_sync_dir_suffix(self: Any, settings: Any) -> None:
        if settings.x_label and not settings.x_sync_dir_suffix:
            label = _UNFIT_FOR_FOLDERS.sub("_", settings.x_label)
            # wandb's own labels differ in their ends.
            settings.x_sync_dir_suffix = label[-LONGEST_LABEL:]
        original(self, settings)

    starting.set_sync_dir_suffix = set_sync_dir_suffix


def _attach(run: Any, interface: Any) -> None:
    run_id = run.settings.run_id
    tap = _taps.get(run_id)
    if tap is None or tap.closed or tap.pid == os.getpid():
        tap = _taps[run_id] = RunTap(run, settings())
    if tap.pid != os.getpid():
        tap.join()
    send = interface._publish
    interface._publish = wrap_send(send, tap)
    interface._deliver = wrap_send(interface._deliver, tap)
    if sends_rows_as_known(type(interface)):
        interface._publish_partial_history = row_sender(send, tap)


def sends_rows_as_known(interface_class: Any) -> bool:
    """Whether wandb's `_publish_partial_history` only publishes the record of `_row_record`."""
    from wandb.proto.wandb_internal_pb2 import PartialHistoryRequest, Record

    row = PartialHistoryRequest()
    row.item.add(key="loss", value_json="0.5")
    row.step.num = 3
    row.action.flush = True
    sent: list[Any] = []
    try:
        interface = object.__new__(interface_class)
        interface._publish = sent.append
        interface._publish_partial_history(row)
    except Exception:
        # Another wandb: it sends its rows by its own method.
        return False
    return sent == [_row_record(Record(), row)]


def row_sender(send: Any, tap: RunTap) -> Any:
    """Send and journal the rows of a run as `wrap_send` does, in fewer steps.

    A training loop waits for it at each `Run.log`. wandb makes the record of a row in more steps
    than are needed; without them a row costs less to journal.

    Args:
        send: wandb's `_publish` of the run's interface.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    send_and_see = wrap_send(send, tap)

    def wrapper(row: Any) -> None:
        record = _row_record(Record(), row)
        if tap.calls is not None:
            send_and_see(record)
            return
        with tap.lock:
            send(record)
            tap.write(record)

    return wrapper


def _row_record(record: Any, row: Any) -> Any:
    """Put the `PartialHistoryRequest` of one `Run.log` into ``record``, as wandb sends it."""
    record.request.partial_history.CopyFrom(row)
    record.control.local = True
    return record


def wrap_send(send: Any, tap: RunTap) -> Any:
    """Journal the records that one method of a run's interface has sent to wandb-core."""

    def wrapper(record: Any, *args: Any, **kwargs: Any) -> Any:
        kind = kept_kind(record)
        if kind is None:
            return send(record, *args, **kwargs)
        with tap.lock:
            kept = tap.kept(record, kind)
            result = send(record, *args, **kwargs)
            tap.write(kept)
        if kind == "request.run_start":
            tap.on_start()
        return result

    return wrapper


def kept_kind(record: Any) -> str | None:
    """The type of a record, or ``request.`` and the type of a request; None if it is not kept."""
    kind: str = record.WhichOneof("record_type")
    if kind == "request":
        return _KEPT_REQUESTS.get(record.request.WhichOneof("request_type"))
    return kind if kind in KEPT_KINDS else None


def _finish_open_runs() -> None:
    for tap in list(_taps.values()):
        tap.after_finish()


def _before_fork() -> None:
    for tap in _taps.values():
        if tap.calls is not None:
            tap.calls.before_fork()


def _after_fork() -> None:
    """Replace locks: one that another thread held at the fork stays locked in the child."""
    for tap in _taps.values():
        tap.lock = threading.RLock()
        if tap.calls is not None:
            tap.calls.after_fork()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def _force_offline() -> None:
    """Let wandb work offline, whatever mode the script asks for (``homes="mlflow"``)."""
    import wandb

    os.environ["WANDB_MODE"] = "offline"
    global _offline_init
    original = wandb.init
    if original is _offline_init:
        return

    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> Any:
        if settings().homes == "mlflow" and kwargs.get("mode") != "disabled":
            kwargs["mode"] = "offline"
        return original(*args, **kwargs)

    wandb.init = _offline_init = init
