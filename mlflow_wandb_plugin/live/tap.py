"""The tap: every record that the wandb SDK sends to wandb-core is also written to a journal.

All of wandb's private API that the package relies on while training is in this file:
`Run._set_backend`, called once for every run and again in forked children, `Run._finish`, and the
interface's `_publish` and `_deliver`. Where one of them is missing the tap says so and leaves
wandb alone. `Run._finish_timed_out`, where there is one, says that wandb gave up uploading.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.live.run_tap import RunTap
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_plugin.settings import Settings

# What of the SDK's traffic a replica needs. Everything else (telemetry, console, polling) is not
# of the run, or is found in its folder.
KEPT_RECORDS = frozenset(
    {
        "run", "config", "metric", "history", "summary", "files", "artifact", "use_artifact",
        "exit", "preempting", "tbrecord",
    }
)  # fmt: skip
KEPT_REQUESTS = frozenset({"run_start", "partial_history", "log_artifact"})

_settings = Settings()
_here: ContextVar[Settings | None] = ContextVar("mlflow_wandb_settings", default=None)
_installed = False
_taps: dict[str, RunTap] = {}
_lock = threading.Lock()


def install(settings: Settings) -> None:
    """Tap every run that starts from now on. With ``homes="wandb"`` nothing is tapped.

    Raises:
        MlflowWandbError: this wandb has no place to tap; the message says which versions do.
    """
    global _settings, _installed
    _settings = settings
    if settings.homes == "wandb":
        return
    if settings.homes == "mlflow":
        _offline()
    with _lock:
        if _installed:
            return
        tapped = run_class()
        tapped._set_backend = _tapped(tapped._set_backend)
        tapped._finish = _finishing(tapped._finish)
        _installed = True
    if "WANDB_SERVICE" not in os.environ:
        # Registered before wandb's own exit hook, ours runs after it: by then wandb-core has
        # ended the runs that the script left open. Where wandb was first, the replicator sees
        # this process end, and nobody waits.
        atexit.register(_finish_left_open)


def settings() -> Settings:
    """The settings of a run that starts here and now."""
    return _here.get() or (_settings if _installed else Settings.load())


@contextmanager
def using(**changes: Any) -> Iterator[None]:
    """Tap the runs that start inside, with ``changes`` to the settings in force; runs that other
    threads or tasks start meanwhile keep theirs.

    Args:
        changes: fields of `mlflow_wandb_plugin.settings.Settings`.

    Raises:
        UsageError: a setting is unknown or its value does not fit.
        MlflowWandbError: this wandb has no place to tap.
    """
    changed = Settings.load(**{**dataclasses.asdict(settings()), **changes})
    if not _installed:
        install(Settings.load())
    token = _here.set(changed)
    try:
        yield
    finally:
        _here.reset(token)


def run_class() -> Any:
    """wandb's Run, if it can be tapped.

    Raises:
        MlflowWandbError: this wandb has no place to tap.
    """
    import wandb

    found: Any = getattr(wandb, "Run", None)
    if not (hasattr(found, "_set_backend") and hasattr(found, "_finish")):
        raise MlflowWandbError(
            f"mlflow-wandb-plugin does not know how to follow wandb {wandb.__version__}: "
            "use a version that its package metadata allows"
        )
    return found


def follows(run: Any) -> bool:
    """Whether ``run`` is being replicated: it started after `install` and was not left alone."""
    tap = _taps.get(run.settings.run_id)
    return tap is not None and not tap.closed


def _tapped(set_backend: Any) -> Any:
    @functools.wraps(set_backend)
    def wrapper(run: Any, backend: Any) -> Any:
        result = set_backend(run, backend)
        if settings().homes != "wandb":
            try:
                _attach(run, getattr(backend, "interface", backend))
            except Exception as error:
                # Whatever it is, the user's run goes on.
                warn_once(f"this run is not replicated to MLflow: {error}")
        return result

    return wrapper


def _finishing(finish: Any) -> Any:
    @functools.wraps(finish)
    def wrapper(run: Any, *args: Any, **kwargs: Any) -> Any:
        tap = _taps.get(run.settings.run_id)
        if tap is not None:
            tap.before_finish()
        uploaded = False
        try:
            result = finish(run, *args, **kwargs)
            uploaded = not getattr(run, "_finish_timed_out", False)
            return result
        finally:
            # Only now has wandb-core written the end of the run's file.
            if tap is not None:
                tap.finished(uploaded)

    return wrapper


def _attach(run: Any, interface: Any) -> None:
    run_id = run.settings.run_id
    tap = _taps.get(run_id)
    if tap is not None and not tap.closed and tap.pid != os.getpid():
        tap.shared_with_child()
    else:
        log = Path(run.settings.sync_file)
        tap = _taps[run_id] = RunTap(run, settings(), log)
        tap.prepare()
    _shadow(interface, tap)


def _shadow(interface: Any, tap: RunTap) -> None:
    """Put the tap between one run's interface and its callers."""
    publish, deliver = interface._publish, interface._deliver

    def tapped_publish(record: Any, *args: Any, **kwargs: Any) -> Any:
        if not _kept(record):
            return publish(record, *args, **kwargs)
        with tap.lock:
            kept = tap.keeping_files(record) if _is_artifact(record) else record
            result = publish(record, *args, **kwargs)
            tap.write(kept)
        return result

    def tapped_deliver(record: Any, *args: Any, **kwargs: Any) -> Any:
        if not _kept(record):
            return deliver(record, *args, **kwargs)
        with tap.lock:
            kept = tap.keeping_files(record) if _is_artifact(record) else record
            result = deliver(record, *args, **kwargs)
            tap.write(kept)
        if _is_run_start(record):
            tap.started()
        return result

    interface._publish, interface._deliver = tapped_publish, tapped_deliver


def _kept(record: Any) -> bool:
    kind = record.WhichOneof("record_type")
    if kind == "request":
        return record.request.WhichOneof("request_type") in KEPT_REQUESTS
    return kind in KEPT_RECORDS


def _is_run_start(record: Any) -> bool:
    kind = record.WhichOneof("record_type")
    return bool(kind == "request" and record.request.HasField("run_start"))


def _is_artifact(record: Any) -> bool:
    kind = record.WhichOneof("record_type")
    if kind == "request":
        return bool(record.request.HasField("log_artifact"))
    return bool(kind == "artifact")


def _finish_left_open() -> None:
    for tap in _taps.values():
        tap.finished()


def _after_fork() -> None:
    """A lock that another thread held at the fork would never be released in the child."""
    for tap in _taps.values():
        tap.lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def _offline() -> None:
    """The cut-over: wandb keeps working, offline, whatever mode the script asks for."""
    import wandb

    os.environ["WANDB_MODE"] = "offline"
    original = wandb.init
    if getattr(original, "_mlflow_wandb_offline", False):
        return

    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> Any:
        if _settings.homes == "mlflow" and kwargs.get("mode") != "disabled":
            kwargs["mode"] = "offline"
        return original(*args, **kwargs)

    init._mlflow_wandb_offline = True  # type: ignore[attr-defined]
    wandb.init = init
