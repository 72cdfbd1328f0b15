"""Ship one journal into MLflow: live beside its trainer, or later by ``mlflow-wandb sync``."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core import tracking_uri as tracking
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.core.replicate import replicate
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import (
    JournalError,
    MlflowWandbError,
    SourceError,
    TargetUnavailableError,
)
from mlflow_wandb_plugin.journal import frames
from mlflow_wandb_plugin.journal.locks import remove_journal, shipping_lock, trainer_alive
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status import read_status, write_status
from mlflow_wandb_plugin.sources.wandb_local import unsent_rows
from mlflow_wandb_plugin.sources.wandb_local.folders import RunLog
from mlflow_wandb_plugin.sources.wandb_local.run_log import Progress, peek, read_logs
from mlflow_wandb_plugin.targets.mlflow.client import check_reachable

POLL_S = 0.2
CORE_PATIENCE_S = 5.0
"""How long wandb-core may take to write a run's exit once the SDK is done with the run."""
DEAD_TRAINER_PATIENCE_S = 1.0
"""wandb-core outlives a killed trainer by about 100 ms."""
SECONDARY = "secondary"
"""In a journal's header and status: another process says how the run ends."""


class MlflowShipment:
    """Ships one journal. Whoever calls `ship` must be the only one: it takes the journal's lock.

    Args:
        path: the journal.
        uri: MLflow's tracking URI, maybe with credentials; empty means MLflow's default.
        experiment: template of the experiment's name.
        follow: stay with a trainer that is alive until it is done.
        keep_trying: asked before each wait for an MLflow that does not answer.
    """

    def __init__(
        self,
        path: Path,
        uri: str,
        experiment: str,
        follow: bool,
        keep_trying: Callable[[], bool],
    ) -> None:
        self.path = path
        self._uri = uri
        self._experiment = experiment
        self._follow = follow
        self._keep_trying = keep_trying
        self._status: dict[str, Any] = {"pid": os.getpid()}
        self._closed_at: float | None = None

    def ship(self) -> str:
        """Ship what there is, and what comes. Returns the state reached: complete, partial
        (the trainer lives, or something was lost), waiting (MLflow does not answer), failed,
        empty (nothing was ever logged), or busy (another process ships it)."""
        with shipping_lock(self.path) as mine:
            if not mine:
                return "busy"
            if not self.path.exists():
                return str(read_status(self.path).get("state", "complete"))
            try:
                return self._ship()
            except TargetUnavailableError as error:
                return self._say("waiting", error=str(error))
            except MlflowWandbError as error:
                return self._say("failed", error=str(error))

    def _ship(self) -> str:
        header = read_header(self.path)
        if header.get(SECONDARY):
            self._status[SECONDARY] = True
        wandb_file = Path(header["wandb_file"])
        log = RunLog(self.path.stem, wandb_file, self.path)
        try:
            info = peek(log)
        except SourceError:
            return self._drop_empty()
        backoff = Backoff(None, self._wait, self._on_trouble, self._on_recovery)
        backoff.call(lambda: check_reachable(self._uri))

        from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget

        def secondary() -> bool:
            return bool(header.get(SECONDARY)) or was_resumed(self.path, str(header["run_id"]))

        options = TargetOptions(experiment=self._experiment)
        target = MlflowTarget(self._uri or None, options, backoff, secondary)
        twin = target.find(info)
        writer = target.open(info, "dual", twin)
        try:
            self._say(
                "live",
                run_id=writer.run_id,
                experiment_id=writer.experiment_id,
                tracking_uri=tracking.shown(target.uri),
                where=tracking.where(target.uri, writer.experiment_id, writer.run_id),
            )
            follow = self._look_again if self._follow else None
            carried = replicate(read_logs([log], writer.position, follow), writer)
        finally:
            writer.close()
        assert carried.info is not None
        result = {
            "points": carried.points,
            "losses": dict(writer.losses),
            "damage": [str(unreadable) for unreadable in carried.unreadable],
        }
        if carried.info.state == "running":
            return self._say("partial", **result)
        flawed = carried.info.missing or writer.losses or carried.unreadable
        with contextlib.suppress(OSError):
            if unsent_rows.may_lack_rows(self.path, header, wandb_file):
                unsent_rows.keep(self.path, wandb_file)
        self._clean_up(header, wandb_file, keep_wandb=bool(flawed))
        # Said last: who waits for it may look at the folder at once.
        return self._say("complete", **result)

    # -- while it grows -------------------------------------------------------------------

    def _look_again(self, progress: Progress) -> bool:
        """Wait a moment; False once neither the SDK nor wandb-core has anything to add."""
        over = progress.closed or not trainer_alive(self.path)
        if over:
            now = time.monotonic()
            self._closed_at = self._closed_at or now
            patience = CORE_PATIENCE_S if progress.closed else DEAD_TRAINER_PATIENCE_S
            if progress.core_done or now - self._closed_at > patience:
                return False
            time.sleep(0.05)
        else:
            time.sleep(POLL_S)
        return True

    def _wait(self, seconds: float) -> bool:
        """Wait for MLflow, in small steps: the trainer may end, or ``sync`` may take over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._follow and (handover_wanted(self.path) or not self._keep_trying()):
                return False
            time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
        return self._keep_trying()

    def _on_trouble(self, error: Exception, pause_s: float) -> None:
        self._say("waiting", error=str(error))

    def _on_recovery(self) -> None:
        self._say("live", error="")

    # -- the end --------------------------------------------------------------------------

    def _say(self, state: str, **more: Any) -> str:
        self._status.update(more, state=state, updated=time.time())
        with contextlib.suppress(OSError):
            write_status(self.path, self._status)
        return state

    def _drop_empty(self) -> str:
        """A journal of a run that never came to be."""
        if trainer_alive(self.path):
            return self._say("partial")
        remove_journal(self.path)
        return self._say("empty")

    def _clean_up(self, header: dict[str, Any], wandb_file: Path, keep_wandb: bool) -> None:
        remove_journal(self.path)
        shutil.rmtree(self.path.with_suffix(".files"), ignore_errors=True)
        folder = wandb_file.parent
        ours = folder.name == f"offline-run-{self.path.stem}" and not folder.is_symlink()
        if header.get("homes") == "mlflow" and ours and not keep_wandb:
            # The cut-over: MLflow is the run's only home now.
            shutil.rmtree(folder, ignore_errors=True)


def was_resumed(path: Path, run_id: str) -> bool:
    """Whether a later process went on with the run of journal ``path``: then that one says whether
    the run goes on, or has said how it ended."""
    stamp = len(path.stem) - len(run_id)
    return any(
        later.stem[stamp:] == run_id and later.stem > path.stem and _says_the_end(later)
        for suffix in (frames.SUFFIX, ".status")
        for later in path.parent.glob(f"[!.]*{suffix}")
    )


def _says_the_end(path: Path) -> bool:
    """Not of a run that never came to be, nor where another process says how the run ends."""
    status: dict[str, Any] = dict(read_status(path))
    with contextlib.suppress(JournalError, OSError):
        status.update(read_header(path.with_suffix(frames.SUFFIX)))
    return status.get("state") != "empty" and not status.get(SECONDARY)


def handover_file(path: Path) -> Path:
    """Exists while ``sync`` wants a journal that a lingering replicator holds."""
    return path.with_suffix(".handover")


def handover_wanted(path: Path) -> bool:
    return handover_file(path).exists()
