"""Start, resume and end a recipe's W&B run and its replica in MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from mlflow_wandb_plugin.core.atomic_files import write_atomically
from mlflow_wandb_plugin.core.identity import GIVEN_RUN_CONFIG_KEY, RUN_ID_CONFIG_KEY
from mlflow_wandb_plugin.errors import MlflowWandbError, UsageError
from mlflow_wandb_plugin.live.terminal import warn_once

FILE_NAME = "dual_logger.json"
"""The file with the run's id beside the checkpoints: a resumed recipe resumes both runs."""
STEP_KEY = "global_step"
CRASHED, INTERRUPTED = 1, 255
"""Exit codes of a W&B run; wandb itself gives the second to Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a recipe's run is logged.

    Attributes:
        init: arguments of ``wandb.init``.
        tracking_uri, experiment: of MLflow; None means the settings of this package.
        mlflow_run_id: an existing MLflow run to write; empty means a new one.
    """

    init: Mapping[str, Any] = field(default_factory=dict)
    tracking_uri: str | None = None
    experiment: str | None = None
    mlflow_run_id: str = ""


@dataclass(frozen=True, slots=True)
class KeptId:
    """The id of a recipe's W&B run, by which its replica is found, too."""

    project: str
    entity: str
    wandb_run_id: str

    @classmethod
    def read(cls, folder: Path) -> KeptId | None:
        """Read the id that an earlier run of the recipe wrote; None if there is none to read."""
        try:
            kept = cls(**json.loads((folder / FILE_NAME).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        texts = all(isinstance(value, str) for value in astuple(kept))
        return kept if texts and kept.wandb_run_id else None


class Session:
    """A W&B run that is replicated to MLflow, from `begin` to `end`.

    If the recipe crashes, `end` is not called: wandb ends the run when the process exits. Where the
    program goes on, `abandon` is called, at the latest when another recipe begins.
    """

    _open: Session | None = None

    def __init__(self, run: Any, owned: bool) -> None:
        self.run = run
        self._owned = owned
        self._pid = os.getpid()
        self._error_at_begin = sys.exc_info()[1]
        self._sigterm = owned and _exit_on_sigterm_of_torchrun()
        self.ended = False

    @classmethod
    def begin(
        cls,
        destination: Destination,
        config: Mapping[str, Any],
        output_dir: Path | None,
        resume: bool,
    ) -> Session:
        """Start the W&B run, or resume the one whose id is in ``output_dir``.

        If the user's code has a run open, the recipe logs into that run and leaves it open.

        Args:
            config: the recipe's config, without secrets.
            output_dir: folder in which the id is kept for a resume.
            resume: whether the recipe resumes from a checkpoint.

        Raises:
            UsageError: a setting is invalid.
        """
        import wandb

        if cls._open is not None:
            cls._open.abandon()
        _switch_on_replication(destination)
        if wandb.run is not None:
            session = cls(wandb.run, owned=False)
            session._join(config)
        else:
            resumed = _resume_arguments(destination, output_dir, resume)
            session = cls(wandb.init(**_arguments(destination, config, resumed)), owned=True)
            session._keep_id(output_dir)
        session.run.define_metric(STEP_KEY)
        session.run.define_metric("*", step_metric=STEP_KEY, step_sync=True)
        cls._open = session
        return session

    def end(self) -> None:
        """End the run: as failed if an exception was raised since `begin` and is being handled."""
        error = sys.exc_info()[1]
        if error is None or error is self._error_at_begin:
            self._finish(0)
        else:
            self._finish(INTERRUPTED if isinstance(error, KeyboardInterrupt) else CRASHED)

    def abandon(self) -> None:
        """End the run of a recipe that crashed."""
        self._finish(CRASHED)

    def _finish(self, exit_code: int) -> None:
        if self.ended or self._pid != os.getpid():
            # A forked child, such as a data loader's worker, must not end the run.
            return
        self.ended = True
        self._error_at_begin = None
        if Session._open is self:
            Session._open = None
        if self._sigterm and signal.getsignal(signal.SIGTERM) is _exit:
            with contextlib.suppress(ValueError):
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._owned:
            self.run.finish(exit_code=exit_code)

    def _join(self, config: Mapping[str, Any]) -> None:
        from mlflow_wandb_plugin.live.tap import follows

        if not follows(self.run):
            warn_once(
                "the W&B run was open before the recipe began, and is not replicated to MLflow: "
                "call mlflow_wandb_plugin.autolog() before wandb.init"
            )
        self.run.config.update(dict(config), allow_val_change=True)

    def _keep_id(self, folder: Path | None) -> None:
        if folder is None:
            return
        kept = KeptId(self.run.project or "", self.run.entity or "", self.run.id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / FILE_NAME, json.dumps(asdict(kept), indent=1) + "\n")
        except OSError as error:
            warn_once(f"a resume will start new runs, because the id cannot be kept: {error}")


def _switch_on_replication(destination: Destination) -> None:
    """Switch replication on; if that fails, the recipe logs to W&B only."""
    from mlflow_wandb_plugin import autolog

    try:
        autolog(tracking_uri=destination.tracking_uri, experiment=destination.experiment)
    except UsageError:
        raise
    except MlflowWandbError as error:
        warn_once(f"{error}. The recipe logs to W&B only")


def _arguments(
    destination: Destination, config: Mapping[str, Any], resumed: Mapping[str, str]
) -> dict[str, Any]:
    """Return the arguments of ``wandb.init``; those of the user take precedence."""
    given = destination.mlflow_run_id
    facts = {RUN_ID_CONFIG_KEY: given, GIVEN_RUN_CONFIG_KEY: True} if given else {}
    users = destination.init.get("config") or {}
    return {**resumed, **destination.init, "config": {**users, **config, **facts}}


def _resume_arguments(
    destination: Destination, output_dir: Path | None, resume: bool
) -> dict[str, str]:
    """Return arguments that make W&B and MLflow resume the recipe's runs, now or later."""
    if {"resume", "resume_from", "fork_from"} & destination.init.keys():
        return {}
    if "id" in destination.init:
        return {"resume": "allow"} if resume else {}
    kept = _kept(destination, output_dir) if resume else None
    return {"resume": "allow"} | ({"id": kept.wandb_run_id} if kept else {})


def _kept(destination: Destination, output_dir: Path | None) -> KeptId | None:
    """Read the id that an earlier run kept; warns if there is none to use."""
    kept = None if output_dir is None else KeptId.read(output_dir)
    if kept is None:
        warn_once(f"{output_dir} has no id of an earlier run to resume: new runs are started")
        return None
    entity = destination.init.get("entity") or os.environ.get("WANDB_ENTITY") or ""
    elsewhere = entity and kept.entity and entity != kept.entity
    if elsewhere or kept.project != destination.init.get("project"):
        where = f"{kept.entity}/{kept.project}".lstrip("/")
        warn_once(f"the recipe's earlier run is in {where}: new runs are started")
        return None
    return kept


def _exit_on_sigterm_of_torchrun() -> bool:
    """Exit on SIGTERM, which torchrun sends to all processes when one fails.

    The run is then ended. Without torchrun, or with another handler, the signal is left alone.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if "TORCHELASTIC_RUN_ID" not in os.environ or not in_main_thread:
        return False
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    signal.signal(signal.SIGTERM, _exit)
    return True


def _exit(number: int, frame: FrameType | None) -> None:
    # wandb takes the run's exit code from this function.
    sys.exit(128 + number)
