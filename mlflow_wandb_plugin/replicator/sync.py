"""Find the journals that earlier processes left behind, and ship each of them once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.errors import JournalError, UsageError
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
from mlflow_wandb_plugin.targets.wandb.run_writer import unset_user_run_variables

LOCK_PATIENCE_S = 60.0
TARGET_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One journal and the state it reached, see `MlflowShipment.ship` and `WandbShipment.ship`.

    Attributes:
        home: "MLflow" or "W&B", where the journal is to be delivered.
    """

    journal: Path
    state: str
    error: str = ""
    run_id: str = ""
    points: int = 0
    home: str = "MLflow"


def default_folder() -> Path:
    """The folder that wandb writes to: ``WANDB_DIR``, else the current folder."""
    return Path(os.environ.get("WANDB_DIR") or ".")


def find_journals(folder: Path, delivered: bool = False) -> list[Path]:
    """The journals of ``folder``: a project's folder, a wandb folder, or a folder of journals.

    ``delivered`` adds journals of which only the status file is left.
    """
    own = os.environ.get("MLFLOW_WANDB_JOURNAL_DIR")
    places = [folder]
    for name in (JOURNAL_DIR, outbox.FOLDER):
        places += [folder / name, folder / "wandb" / name, folder / ".wandb" / name]
    places += [Path(own)] if own else []
    found = {
        path.absolute().with_suffix(frames.SUFFIX)
        for place in places
        for suffix in ((frames.SUFFIX, ".status") if delivered else (frames.SUFFIX,))
        for path in place.glob(f"[!.]*{suffix}")
    }
    return sorted(found, key=lambda path: path.stem)


def deliver(journals: list[Path], to: str = "") -> Iterator[Delivery]:
    """Ship each journal.

    A journal that another process still tries to ship is taken over from it.

    Args:
        to: MLflow's tracking URI for all journals; empty is this process's own, and leaves the
            journals of others.
    """
    for path in journals:
        try:
            header = read_header(path)
            if header.get("born") == outbox.BORN:
                # A forwarder that waits for W&B does not hold the journal.
                unset_user_run_variables()
                ship = WandbShipment(path, follow=False).ship
                delivery = _ship(path, ship, "W&B", partial(trainer_alive, path))
            else:
                uri = _tracking_uri(header.get("tracking_uri", ""), to)
                delivery = _deliver_to_mlflow(path, uri, header)
        except (JournalError, UsageError) as error:
            delivery = Delivery(path, "failed", str(error))
        except Exception as error:
            # An error of one journal must not keep the others from being delivered.
            delivery = Delivery(path, "failed", f"{type(error).__name__}: {error}")
        yield delivery


def _deliver_to_mlflow(path: Path, uri: str, header: dict[str, Any]) -> Delivery:
    give_up_at = time.monotonic() + TARGET_PATIENCE_S
    experiment = header.get("experiment", "{project}")
    shipment = MlflowShipment(
        path,
        uri,
        experiment,
        follow=False,
        keep_trying=lambda: time.monotonic() < give_up_at,
        journal_dir=Settings.load().journal_dir,
    )
    handover = handover_file(path)
    handover.touch(mode=0o600)
    try:
        wandb_file = wandb_file_of(path, header, Settings.load().journal_dir)
        return _ship(path, shipment.ship, "MLflow", lambda: run_goes_on(path, wandb_file))
    finally:
        handover.unlink(missing_ok=True)


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
