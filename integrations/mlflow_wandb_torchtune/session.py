"""One run of a recipe in its two homes: how it begins, goes on after a resume, and ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mlflow_wandb_plugin.core.identity import GIVEN_RUN_CONFIG_KEY, STEP_METRIC_CONFIG_KEY
from mlflow_wandb_plugin.errors import MlflowWandbError, UsageError
from mlflow_wandb_plugin.live.terminal import warn_once
from mlflow_wandb_torchtune.kept_ids import KeptIds

STEP_KEY = "global_step"
CRASHED, INTERRUPTED = 1, 255
"""Exit codes of a W&B run; wandb itself gives the second to Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Homes:
    """Where a recipe's run lives.

    Attributes:
        init: arguments of ``wandb.init``.
        tracking_uri, experiment: of MLflow; None means as everywhere in this package.
        mlflow_run_id: a run of MLflow's to write; empty means one of our own.
    """

    init: Mapping[str, Any] = field(default_factory=dict)
    tracking_uri: str | None = None
    experiment: str | None = None
    mlflow_run_id: str = ""


class Session:
    """A W&B run that is replicated to MLflow, from `begin` to `end`.

    One that is never ended belongs to a recipe that crashed: it is ended as failed when the
    process exits, or when another recipe begins in it.
    """

    _open: Session | None = None

    def __init__(self, run: Any, owned: bool, kept_in: Path | None) -> None:
        self.run = run
        self._owned = owned
        self._kept_in = kept_in
        self._pid = os.getpid()
        self._begun_within = sys.exc_info()[1]
        self._exit_code = CRASHED
        self._ended = False

    @classmethod
    def begin(
        cls, homes: Homes, config: Mapping[str, Any], output_dir: Path | None, resume: bool
    ) -> Session:
        """Start the W&B run, or go on with the one that ``output_dir`` knows; MLflow follows.

        A run that the user's code has open is logged into, and is left open at the end.

        Args:
            config: the recipe's config, as it may be shown.
            output_dir: where the ids are kept for a resume.
            resume: whether the recipe goes on from a checkpoint.

        Raises:
            UsageError: a setting does not fit.
        """
        import wandb

        if cls._open is not None:
            cls._open.abandon()
        _follow(homes)
        if wandb.run is not None:
            session = cls(wandb.run, owned=False, kept_in=None)
            session._join(config)
        else:
            run = wandb.init(**_arguments(homes, config, _goes_on(homes, output_dir, resume)))
            session = cls(run, owned=True, kept_in=output_dir)
            session._keep_ids()
            session._watch_for_a_crash()
        session.run.define_metric(STEP_KEY)
        session.run.define_metric("*", step_metric=STEP_KEY, step_sync=True)
        cls._open = session
        return session

    def end(self) -> None:
        """The recipe is done, or is being left by an exception that its author cleans up after."""
        error = sys.exc_info()[1]
        if error is None or error is self._begun_within:
            self._finish(0)
        else:
            self._finish(INTERRUPTED if isinstance(error, KeyboardInterrupt) else CRASHED)

    def abandon(self) -> None:
        """The recipe never came to its end."""
        self._finish(self._exit_code)

    @property
    def ended(self) -> bool:
        return self._ended

    # -- the end --------------------------------------------------------------------------

    def _finish(self, exit_code: int) -> None:
        if self._ended or self._pid != os.getpid():
            # A forked child, such as a data loader's worker, has no say in it.
            return
        self._ended = True
        self._begun_within = None
        if Session._open is self:
            Session._open = None
        if not self._owned:
            return
        self._stop_watching()
        self.run.finish(exit_code=exit_code)
        # Only now is it sure that MLflow has told its id, if it ever did.
        self._keep_ids()

    def _watch_for_a_crash(self) -> None:
        # Registered after wandb's own exit hook, ours runs before it.
        atexit.register(self.abandon)
        self._excepthook = sys.excepthook
        sys.excepthook = self._note_exception
        self._sigterm = _unwind_when_torchrun_ends_us()

    def _note_exception(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            self._exit_code = INTERRUPTED
        self._excepthook(kind, error, trace)

    def _stop_watching(self) -> None:
        atexit.unregister(self.abandon)
        if sys.excepthook == self._note_exception:
            sys.excepthook = self._excepthook
        if self._sigterm and signal.getsignal(signal.SIGTERM) is _unwind:
            with contextlib.suppress(ValueError):
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    # -- the run --------------------------------------------------------------------------

    def _join(self, config: Mapping[str, Any]) -> None:
        from mlflow_wandb_plugin.live.tap import follows

        if not follows(self.run):
            warn_once(
                "the W&B run was open before the recipe began, and MLflow does not follow it: "
                "call mlflow_wandb_plugin.autolog() before wandb.init"
            )
        self.run.config.update(dict(config), allow_val_change=True)

    def _keep_ids(self) -> None:
        if self._kept_in is None:
            return
        known = self.run.config.get("mlflow_run_id") or ""
        run = self.run
        ids = KeptIds(run.project or "", run.entity or "", run.id, str(known))
        try:
            ids.write(self._kept_in)
        except OSError as error:
            warn_once(f"a resume will make new runs, the ids cannot be kept: {error}")


def _follow(homes: Homes) -> None:
    """Switch replication on. Whatever stands in its way, the recipe logs to W&B."""
    from mlflow_wandb_plugin import autolog

    try:
        autolog(tracking_uri=homes.tracking_uri, experiment=homes.experiment)
    except UsageError:
        raise
    except MlflowWandbError as error:
        warn_once(f"{error}. The recipe logs to W&B alone")


def _arguments(
    homes: Homes, config: Mapping[str, Any], goes_on: Mapping[str, str]
) -> dict[str, Any]:
    """What `wandb.init` is called with; what the user chose stands over what we would."""
    facts: dict[str, Any] = {STEP_METRIC_CONFIG_KEY: STEP_KEY}
    if homes.mlflow_run_id:
        facts |= {"mlflow_run_id": homes.mlflow_run_id, GIVEN_RUN_CONFIG_KEY: True}
    elif "mlflow_run_id" in goes_on:
        facts["mlflow_run_id"] = goes_on["mlflow_run_id"]
    known = {key: value for key, value in goes_on.items() if key != "mlflow_run_id"}
    users = homes.init.get("config") or {}
    return {**known, **homes.init, "config": {**users, **config, **facts}}


def _goes_on(homes: Homes, output_dir: Path | None, resume: bool) -> dict[str, str]:
    """What makes W&B and MLflow go on in the runs of a recipe that is resumed."""
    if not resume or {"resume", "resume_from", "fork_from"} & homes.init.keys():
        return {}
    if "id" in homes.init:
        return {"resume": "allow"}
    kept = _kept(homes, output_dir)
    if kept is None:
        return {}
    mlflow = {"mlflow_run_id": kept.mlflow_run_id} if kept.mlflow_run_id else {}
    return {"id": kept.wandb_run_id, "resume": "allow"} | mlflow


def _kept(homes: Homes, output_dir: Path | None) -> KeptIds | None:
    """The ids that an earlier run kept; new runs are never made silently."""
    kept = None if output_dir is None else KeptIds.read(output_dir)
    if kept is None:
        warn_once(f"{output_dir} knows no earlier run to go on with: new runs are made")
        return None
    entity = homes.init.get("entity") or os.environ.get("WANDB_ENTITY") or ""
    elsewhere = entity and kept.entity and entity != kept.entity
    if elsewhere or kept.project != homes.init.get("project"):
        where = f"{kept.entity}/{kept.project}".lstrip("/")
        warn_once(f"the recipe's earlier run is in {where}: new runs are made")
        return None
    return kept


def _unwind_when_torchrun_ends_us() -> bool:
    """torchrun sends SIGTERM to all when one process fails: end as from an exception, so that the
    run is told. Elsewhere the signal keeps its meaning."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    signal.signal(signal.SIGTERM, _unwind)
    return True


def _unwind(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
