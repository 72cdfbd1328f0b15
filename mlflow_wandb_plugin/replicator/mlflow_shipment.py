"""Ship one journal of a W&B run to MLflow: during training, or later by ``mlflow-wandb sync``."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.core import identity, tracking_uri
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.core.replicate import ReplicationResult, replicate
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.errors import (
    JournalError,
    MlflowWandbError,
    SourceError,
    TargetUnavailableError,
    UsageError,
)
from mlflow_wandb_plugin.journal import frames
from mlflow_wandb_plugin.journal.journal_locks import remove_journal, shipping_lock, trainer_alive
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status_file import (
    LEFT_OUT,
    WANDB_RUN_ID,
    read_status,
    write_status,
)
from mlflow_wandb_plugin.live import unsent_rows
from mlflow_wandb_plugin.replicator.run_log_of_journal import wandb_file_of
from mlflow_wandb_plugin.sources.wandb_local.folders import RunLog
from mlflow_wandb_plugin.sources.wandb_local.run_log import (
    Progress,
    is_open_elsewhere,
    peek,
    read_logs,
)
from mlflow_wandb_plugin.targets.mlflow.client import check_reachable
from mlflow_wandb_plugin.targets.wandb.lookup import wanted_mode
from mlflow_wandb_plugin.wandb_api.config_keys import try_to_add_config_keys

if TYPE_CHECKING:
    from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget

POLL_S = 0.2
CORE_PATIENCE_S = 5.0
"""How long wandb-core may take to write a run's exit once the SDK is done with the run."""
DEAD_TRAINER_PATIENCE_S = 1.0
"""wandb-core outlives a killed training process by about 100 ms."""
CORE_POLL_S = 1.0
"""Between two looks whether wandb-core still has the log of a dead training process open."""
_importing = threading.Lock()
ASKING = "asking"
"""State of a journal until MLflow has answered for the first time."""
SECONDARY = "secondary"
"""Key of a journal's header and status: another process writes how the run ends."""


class MlflowShipment:
    """Ships one journal.

    Args:
        path: the journal.
        uri: MLflow's tracking URI, maybe with credentials; empty means MLflow's default.
        experiment: template of the experiment's name.
        follow: whether to wait for more while the training process has the journal open.
        keep_trying: asked before each wait for an MLflow that does not answer.
        own: whether the training process that wrote the journal asked for the shipment: only then
            may the run's config name an MLflow run that lacks its tags.
        journal_dir: see `wandb_file_of`.
    """

    def __init__(
        self,
        path: Path,
        uri: str,
        experiment: str,
        follow: bool,
        keep_trying: Callable[[], bool],
        own: bool = False,
        journal_dir: str = "",
    ) -> None:
        self.path = path
        self._uri = uri
        self._experiment = experiment
        self._follow = follow
        self._keep_trying = keep_trying
        self._own = own
        self._status: dict[str, Any] = {"pid": os.getpid()}
        self._journal_dir = journal_dir
        self._closed_at: float | None = None
        self._wandb_file = Path()

    def ship(self) -> str:
        """Ship what the journal has, and what is appended meanwhile.

        Returns:
            The state reached: complete, partial (the run goes on, or something was lost), waiting
            (MLflow does not answer), failed, empty (nothing was ever logged), busy (another
            process ships the journal), or left out (by a plugin).
        """
        with shipping_lock(self.path) as locked:
            if not locked:
                return "busy"
            if not self.path.exists():
                return str(read_status(self.path).get("state", "complete"))
            try:
                return self._ship()
            except TargetUnavailableError as error:
                return self._write_status("waiting", error=str(error))
            except MlflowWandbError as error:
                return self._write_status("failed", error=str(error))

    def _ship(self) -> str:
        header = read_header(self.path)
        self._status[WANDB_RUN_ID] = header["run_id"]
        # A training process decides which files it logs; a journal that was left may be anybody's.
        from_trainer = trainer_alive(self.path)
        if header.get(SECONDARY):
            self._status[SECONDARY] = True
        wandb_file = self._wandb_file = wandb_file_of(self.path, header, self._journal_dir)
        log = RunLog(self.path.stem, wandb_file, self.path)
        try:
            info = peek(log)
        except SourceError:
            return self._remove_empty()
        if not plugins.takes(info):
            return self._leave_out()
        target = self._open_target(header, info)
        writer = target.open(info, "dual", target.find(info))
        try:
            self._write_status(
                "live",
                run_id=writer.run_id,
                experiment_id=writer.experiment_id,
                tracking_uri=tracking_uri.shown(target.uri),
                where=tracking_uri.where(target.uri, writer.experiment_id, writer.run_id),
            )
            follow = self._wait_for_more if self._follow else None
            items = read_logs([log], writer.position, follow, follow_links=from_trainer)
            result = replicate(items, writer)
        finally:
            writer.close()
        keys = identity.config_keys(writer.run_id, writer.experiment_id, target.uri)
        return self._end(header, result, writer.losses, keys)

    def _open_target(self, header: Mapping[str, Any], info: RunInfo) -> MlflowTarget:
        """Open MLflow, however long it does not answer."""
        backoff = Backoff(
            None,
            self._wait,
            on_trouble=lambda error, _: self._write_status("waiting", error=str(error)),
            on_recovery=lambda: self._write_status("live", error=""),
        )
        self._write_status(ASKING, name=info.name, project=info.project)
        backoff.call(lambda: check_reachable(self._uri))
        import_target(self._uri)

        from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget

        is_secondary = bool(header.get(SECONDARY))
        options = TargetOptions(
            experiment=self._experiment,
            adopt_dual=self._own,
            find_beside=False,
            secret_names=header.get("secret_names"),
            steps=header.get("steps"),
            map_metric=plugins.map_metric,
        )
        return MlflowTarget(
            self._uri or None,
            options,
            backoff,
            lambda: is_secondary or was_resumed(self.path, str(header["run_id"])),
        )

    def _end(
        self,
        header: Mapping[str, Any],
        result: ReplicationResult,
        losses: Mapping[str, int],
        keys: Mapping[str, str],
    ) -> str:
        """Write the state that was reached; remove what a complete run no longer needs.

        Args:
            keys: name the MLflow run in the W&B run's config.
        """
        assert result.info is not None
        counts = {
            "points": result.points,
            "losses": dict(losses),
            "damage": [str(unreadable) for unreadable in result.unreadable],
        }
        if result.info.state == "running":
            return self._write_status("partial", **counts)
        incomplete = result.info.missing or losses or result.unreadable
        with contextlib.suppress(OSError):
            if unsent_rows.may_lack_rows(self.path, header, self._wandb_file):
                unsent_rows.keep(self.path, self._wandb_file)
        self._clean_up(header, self._wandb_file, keep_wandb=bool(incomplete))
        # Last: a process that waits for this state may look at the folder at once.
        self._write_status("complete", **counts)
        if identity.RUN_ID_CONFIG_KEY not in result.info.config:
            _name_twin_in_config(result.info, self._wandb_file, keys)
        return "complete"

    def _wait_for_more(self, progress: Progress) -> bool:
        """Wait a moment; False once neither the SDK nor wandb-core will append more."""
        if not progress.closed and trainer_alive(self.path):
            time.sleep(POLL_S)
            return True
        now = time.monotonic()
        self._closed_at = self._closed_at or now
        patience_s = CORE_PATIENCE_S if progress.closed else DEAD_TRAINER_PATIENCE_S
        if progress.core_done:
            return False
        if now - self._closed_at <= patience_s:
            time.sleep(0.05)
            return True
        if progress.closed or not run_goes_on(self.path, self._wandb_file):
            return False
        time.sleep(CORE_POLL_S)
        return True

    def _wait(self, seconds: float) -> bool:
        """Wait for MLflow, in small steps: training may end, or ``sync`` may take over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._follow and (handover_file(self.path).exists() or not self._keep_trying()):
                return False
            time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
        return self._keep_trying()

    def _write_status(self, state: str, **more: Any) -> str:
        self._status.update(more, state=state, updated=time.time())
        with contextlib.suppress(OSError):
            write_status(self.path, self._status)
        return state

    def _leave_out(self) -> str:
        """Remove the journal of a run that a plugin leaves out, once its writer is done."""
        self._write_status(LEFT_OUT)
        while self._follow and trainer_alive(self.path):
            time.sleep(POLL_S)
        if not trainer_alive(self.path):
            remove_journal(self.path)
        return self._write_status(LEFT_OUT)

    def _remove_empty(self) -> str:
        """Remove the journal of a run that was never created."""
        if trainer_alive(self.path):
            return self._write_status("partial")
        remove_journal(self.path)
        return self._write_status("empty")

    def _clean_up(self, header: Mapping[str, Any], wandb_file: Path, keep_wandb: bool) -> None:
        remove_journal(self.path)
        shutil.rmtree(self.path.with_suffix(".files"), ignore_errors=True)
        folder = wandb_file.parent
        ours = folder.name == f"offline-run-{self.path.stem}" and not folder.is_symlink()
        if header.get("homes") == "mlflow" and ours and not keep_wandb:
            # The user has switched to MLflow alone.
            shutil.rmtree(folder, ignore_errors=True)


def _name_twin_in_config(info: RunInfo, wandb_file: Path, keys: Mapping[str, str]) -> None:
    """Let the config of a run that W&B's server has name its MLflow run: MLflow answered too late
    for the training process to do it. Never raises."""
    online = wandb_file.parent.name.startswith("run-")
    with contextlib.suppress(UsageError):
        if online and wanted_mode() == "online":
            try_to_add_config_keys(info.entity, info.project, info.run_id, keys)


def import_target(uri: str) -> None:
    """Import what writing to ``uri`` needs; one thread at a time."""
    with _importing:
        import mlflow_wandb_plugin.targets.mlflow.target  # noqa: F401
        from mlflow_wandb_plugin.targets.mlflow.client import import_client

        import_client(uri)


def run_goes_on(path: Path, wandb_file: Path) -> bool:
    """Whether a process writes journal ``path``, or wandb-core the log of its run.

    A process that ended without ``finish`` leaves its run to the wandb-core of its parent.
    """
    return trainer_alive(path) or is_open_elsewhere(wandb_file, guess=False)


def was_resumed(path: Path, run_id: str) -> bool:
    """Whether a later process resumed the run of journal ``path`` and writes how the run ends."""
    return any(
        later.stem > path.stem and run_id in later.stem and _writes_the_end(later, run_id)
        for suffix in (frames.SUFFIX, ".status")
        for later in path.parent.glob(f"[!.]*{suffix}")
    )


def _writes_the_end(path: Path, run_id: str) -> bool:
    """Whether journal ``path`` is of the W&B run ``run_id``, and its process writes how that ends.

    The name of a journal is that of wandb's folder: behind the run's id it may have a suffix.
    """
    status: dict[str, Any] = dict(read_status(path))
    found = status.get(WANDB_RUN_ID)
    with contextlib.suppress(JournalError, OSError):
        header = read_header(path.with_suffix(frames.SUFFIX))
        found = header["run_id"]
        status.update(header)
    # Status files of earlier versions do not say.
    is_same = found == run_id if found else path.stem.endswith(f"-{run_id}")
    return is_same and status.get("state") != "empty" and not status.get(SECONDARY)


def handover_file(path: Path) -> Path:
    """The file that asks a replicator, which waits for MLflow, to release a journal to ``sync``."""
    return path.with_suffix(".handover")
