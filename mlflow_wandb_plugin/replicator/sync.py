"""Find the journals that earlier processes left behind, and ship each of them once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.errors import JournalError, MlflowWandbError, UsageError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.frames import JOURNAL_DIR
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status_file import read_status
from mlflow_wandb_plugin.replicator.mlflow_shipment import (
    MlflowShipment,
    handover_file,
    run_goes_on,
)
from mlflow_wandb_plugin.replicator.run_log_of_journal import wandb_file_of
from mlflow_wandb_plugin.replicator.wandb_shipment import WandbShipment
from mlflow_wandb_plugin.settings import Settings
from mlflow_wandb_plugin.sources.wandb_local.run_log import is_open_elsewhere
from mlflow_wandb_plugin.targets.wandb.log_upload import unset_user_run_variables
from mlflow_wandb_plugin.targets.wandb.lookup import Access, wanted_mode

LOCK_PATIENCE_S = 60.0
CORE_END_PATIENCE_S = 30.0
"""wandb-core outlives a killed training process: by 100 ms, or by seconds where the machine is
busy. One that is still there after this time belongs to a process that is alive."""
FOLLOWED_QUIET_S = 10.0
"""A replicator that still follows a server's journal after this time without a write has delivered
it: the run has not ended, and the server may go on with it."""
TARGET_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One journal and the state it reached, see `MlflowShipment.ship` and `WandbShipment.ship`.

    Attributes:
        home: "MLflow" or "W&B", where the journal is to be delivered.
        target: MLflow's tracking URI, without credentials.
    """

    journal: Path
    state: str
    error: str = ""
    run_id: str = ""
    points: int = 0
    home: str = "MLflow"
    target: str = ""


def default_folder() -> Path:
    """The folder that wandb writes to: ``WANDB_DIR``, else the current folder."""
    return Path(os.environ.get("WANDB_DIR") or ".")


def find_journals(folder: Path, delivered: bool = False) -> list[Path]:
    """The journals of ``folder``: a project's folder, a wandb folder, or a folder of journals.

    ``delivered`` adds journals of which only the status file is left.
    """
    own = os.environ.get("MLFLOW_WANDB_JOURNAL_DIR")
    places = [folder]
    for name in (JOURNAL_DIR, outbox.FORMER_FOLDER):
        places += [folder / name, folder / "wandb" / name, folder / ".wandb" / name]
    places += [Path(own)] if own else []
    found = {
        path.absolute().with_suffix(frames.SUFFIX)
        for place in places
        for suffix in ((frames.SUFFIX, ".status") if delivered else (frames.SUFFIX,))
        for path in place.glob(f"[!.]*{suffix}")
    }
    return sorted(found, key=lambda path: path.stem)


def deliver(
    journals: list[Path], to: str = "", starting: Callable[[Path], object] = lambda _: None
) -> Iterator[Delivery]:
    """Ship each journal that is still there, target by target.

    A journal that another process still tries to ship is taken over from it. A target that does not
    answer is asked once for all its journals.

    Args:
        to: MLflow's tracking URI for all journals; empty is this process's own, and leaves the
            journals of others.
        starting: is called with each journal before it is shipped.
    """
    cores_end_by = time.monotonic() + CORE_END_PATIENCE_S
    groups: dict[_Target, list[_Waiting]] = {}
    for path in journals:
        try:
            header = read_header(path)
            target = _target_of(header, to)
        except (JournalError, UsageError) as error:
            # Another process may have delivered it since it was found.
            if path.exists():
                yield Delivery(path, "failed", str(error))
        else:
            groups.setdefault(target, []).append(_Waiting(path, header))
    for target, waiting in groups.items():
        gone = ""
        for journal in waiting:
            starting(journal.path)
            if gone:
                delivery = target.left(journal.path, gone)
            else:
                delivery = _deliver(journal, target, cores_end_by)
            if delivery.state == "waiting" and not gone:
                gone = target.error() or ""
            yield delivery


class _Waiting(NamedTuple):
    """A journal to be delivered, and its header."""

    path: Path
    header: dict[str, Any]


class _Target(NamedTuple):
    """Where journals are delivered. ``uri`` is MLflow's, maybe with credentials."""

    home: str
    uri: str = ""

    @property
    def shown(self) -> str:
        return tracking_uri.shown(self.uri)

    def left(self, path: Path, error: str) -> Delivery:
        """A journal that is not tried, because the target did not answer for another one."""
        return Delivery(path, "waiting", error, home=self.home, target=self.shown)

    def error(self) -> str:
        """Why the target is given up, once a journal waits for it; empty if only that one does."""
        if self.home == "MLflow":
            return f"MLflow at {self.shown or 'its default place'} did not answer"
        try:
            if wanted_mode() == "online":
                Access(patience_s=0).entity()
        except MlflowWandbError as error:
            return str(error)
        return ""


def _target_of(header: dict[str, Any], to: str) -> _Target:
    """Where a journal goes.

    Raises:
        UsageError: as `_tracking_uri`.
    """
    if header.get("born") == outbox.BORN:
        return _Target("W&B")
    return _Target("MLflow", _tracking_uri(header.get("tracking_uri", ""), to))


def _deliver(journal: _Waiting, target: _Target, cores_end_by: float) -> Delivery:
    path = journal.path
    try:
        if target.home == "W&B":
            # A replicator that waits for W&B does not hold the journal.
            unset_user_run_variables()
            ship = WandbShipment(path, follow=False).ship
            delivery = _ship(path, ship, "W&B", partial(_mirror_goes_on, path, journal.header))
        else:
            delivery = _deliver_to_mlflow(path, target.uri, journal.header, cores_end_by)
    except (JournalError, UsageError) as error:
        delivery = Delivery(path, "failed", str(error), home=target.home)
    except Exception as error:
        # An error of one journal must not keep the others from being delivered.
        delivery = Delivery(path, "failed", f"{type(error).__name__}: {error}", home=target.home)
    return replace(delivery, target=target.shown)


def _mirror_goes_on(path: Path, header: Mapping[str, Any]) -> bool:
    """Whether the replicator that holds a journal waits for more, and has delivered the rest."""
    if trainer_alive(path):
        return True
    if header.get("role") != "server" or read_status(path).get("state") != "live":
        return False
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > FOLLOWED_QUIET_S
    return False


def _deliver_to_mlflow(
    path: Path, uri: str, header: dict[str, Any], cores_end_by: float
) -> Delivery:
    give_up_at = time.monotonic() + TARGET_PATIENCE_S
    experiment = header.get("experiment", "{project}")
    journal_dir = Settings.load().journal_dir
    shipment = MlflowShipment(
        path,
        uri,
        experiment,
        follow=False,
        keep_trying=lambda: time.monotonic() < give_up_at,
        journal_dir=journal_dir,
    )
    handover = handover_file(path)
    handover.touch(mode=0o600)
    try:
        wandb_file = wandb_file_of(path, header, journal_dir)
        _wait_for_core_of_dead_trainer(path, wandb_file, cores_end_by)
        return _ship(path, shipment.ship, "MLflow", lambda: run_goes_on(path, wandb_file))
    finally:
        handover.unlink(missing_ok=True)


def _wait_for_core_of_dead_trainer(path: Path, wandb_file: Path, until: float) -> None:
    """Wait for the end of a run whose training process was just killed.

    Args:
        until: when to give up, by `time.monotonic`.
    """
    while not trainer_alive(path) and is_open_elsewhere(wandb_file, guess=False):
        if time.monotonic() >= until:
            return
        time.sleep(0.1)


def _ship(path: Path, ship: Callable[[], str], home: str, goes_on: Callable[[], bool]) -> Delivery:
    """Call ``ship`` until no other process holds the journal, or its run goes on."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while (state := ship()) == "busy" and time.monotonic() < deadline:
        if goes_on():
            return Delivery(path, "live", "its run goes on, a helper process follows it", home=home)
        time.sleep(0.2)
    status = read_status(path)
    error, run_id = str(status.get("error", "")), str(status.get("run_id", ""))
    return Delivery(path, state, error, run_id, int(status.get("points", 0)), home)


def _tracking_uri(recorded: str, to: str) -> str:
    """Where to deliver a journal: ``to``, else this process's own MLflow.

    The URI that a journal records gets no credentials of this process and no file of this user's:
    whoever wrote the journal chose it. It has no credentials itself.

    Raises:
        UsageError: the journal records another one; the message says what to do.
    """
    own = tracking_uri.uri(Settings.load())
    if to or not recorded or recorded.rstrip("/") == tracking_uri.shown(own).rstrip("/"):
        return to or own
    setting = f"this process's MLflow is {tracking_uri.shown(own)}" if own else "none is set here"
    raise UsageError(
        f"the run was logged for the MLflow at {recorded}, and {setting}: "
        f"`mlflow-wandb sync --to {recorded}` delivers it there"
    )
