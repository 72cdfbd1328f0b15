"""Deliver what trainers left behind: find journals, ship each, once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.errors import JournalError, UsageError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.frames import JOURNAL_DIR
from mlflow_wandb_plugin.journal.locks import trainer_alive
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status import read_status
from mlflow_wandb_plugin.replicator.mlflow_shipment import MlflowShipment, handover_file
from mlflow_wandb_plugin.replicator.wandb_shipment import WandbShipment, is_mirrored
from mlflow_wandb_plugin.targets.wandb.run_writer import forget_users_run

LOCK_PATIENCE_S = 60.0
TARGET_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One journal and the state it reached, see `MlflowShipment.ship`, `WandbShipment.ship`.
    ``home`` is where it was to go."""

    journal: Path
    state: str
    error: str = ""
    run_id: str = ""
    points: int = 0
    home: str = "MLflow"


def default_folder() -> Path:
    """Where wandb itself writes: ``WANDB_DIR``, else the current folder."""
    return Path(os.environ.get("WANDB_DIR") or ".")


def find_journals(folder: Path) -> list[Path]:
    """Journals below ``folder``: a project's, a wandb folder's, or the journals' own."""
    return _find(folder, (frames.SUFFIX,))


def find_statuses(folder: Path) -> list[Path]:
    """The journals below ``folder`` that there are or were, for `read_status`."""
    return _find(folder, (frames.SUFFIX, ".status"))


def _find(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    own = os.environ.get("MLFLOW_WANDB_JOURNAL_DIR")
    places = [folder]
    for name in (JOURNAL_DIR, outbox.FOLDER):
        places += [folder / name, folder / "wandb" / name, folder / ".wandb" / name]
    places += [Path(own)] if own else []
    found = {
        path.absolute().with_suffix(frames.SUFFIX)
        for place in places
        for suffix in suffixes
        for path in place.glob(f"[!.]*{suffix}")
    }
    return sorted(found, key=lambda path: path.stem)


def deliver(journals: list[Path], to: str = "") -> Iterator[Delivery]:
    """Ship each journal to ``to``, or to where its header says.

    A journal that a lingering replicator still holds is taken over from it.
    """
    for path in journals:
        try:
            header = read_header(path)
            if is_mirrored(path):
                yield _mirror_one(path)
                continue
            uri = _uri(header.get("tracking_uri", ""), to)
        except (JournalError, UsageError) as error:
            yield Delivery(path, "failed", str(error))
            continue
        try:
            delivery = _deliver_one(path, uri, str(header.get("experiment", "{project}")))
        except Exception as error:
            # Whatever is wrong with one journal, the others are delivered.
            delivery = Delivery(path, "failed", f"{type(error).__name__}: {error}")
        yield delivery


def _deliver_one(path: Path, uri: str, experiment: str) -> Delivery:
    give_up = time.monotonic() + TARGET_PATIENCE_S
    shipment = MlflowShipment(
        path, uri, experiment, follow=False, keep_trying=lambda: time.monotonic() < give_up
    )
    handover = handover_file(path)
    handover.touch(mode=0o600)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    try:
        while (state := shipment.ship()) == "busy" and time.monotonic() < deadline:
            if trainer_alive(path):
                return Delivery(path, "live", "its trainer is at work, a replicator follows it")
            time.sleep(0.2)
    finally:
        handover.unlink(missing_ok=True)
    status = read_status(path)
    return Delivery(
        path, state, status.get("error", ""), status.get("run_id", ""), status.get("points", 0)
    )


def _mirror_one(path: Path) -> Delivery:
    """A run that was born in MLflow goes to W&B. A forwarder that waits holds no journal."""
    forget_users_run()
    mirror = WandbShipment(path, follow=False)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    try:
        while (state := mirror.ship()) == "busy" and time.monotonic() < deadline:
            if trainer_alive(path):
                return Delivery(path, "live", "its run goes on, a forwarder follows it")
            time.sleep(0.2)
    except Exception as error:
        # Whatever is wrong with one journal, the others are delivered.
        return Delivery(path, "failed", f"{type(error).__name__}: {error}")
    status = read_status(path)
    return Delivery(
        path,
        state,
        str(status.get("error", "")),
        str(status.get("run_id", "")),
        int(status.get("points", 0)),
        home="W&B",
    )


def _uri(recorded: str, to: str) -> str:
    """The journal's MLflow. It was written down without credentials: the environment has them."""
    if to:
        return to
    current = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not recorded or tracking_uri.shown(current) == recorded:
        return current
    return recorded
