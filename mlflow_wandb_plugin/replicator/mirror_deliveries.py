"""Deliver the journals of a folder's mirrored MLflow runs to W&B.

All of them are delivered, while they are written and as long as W&B may still accept something.
What is left stays in the journals for the next helper process, or for ``mlflow-wandb sync``.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_wandb_plugin.core.locks import file_lock
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.journal.reader import read_header
from mlflow_wandb_plugin.journal.status_file import read_status
from mlflow_wandb_plugin.replicator.wandb_shipment import WandbShipment
from mlflow_wandb_plugin.targets.wandb.lookup import Access, wanted_mode

MOST_OPEN_RUNS = 64
"""Runs that are open in W&B at the same time."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Between two attempts to deliver a journal."""
FIRST_ANSWER_S = 15.0
"""After this time an attempt that goes on is no longer taken as a sign that W&B answers."""
ASK_EVERY_S = 5.0
"""Between two questions whether W&B answers."""


@dataclass(slots=True)
class JournalDelivery:
    """The attempts to deliver one journal. Times are of `time.monotonic`, in seconds."""

    path: Path
    thread: threading.Thread | None = None
    state: str = ""
    pause_s: float = FIRST_PAUSE_S
    due_at: float = 0.0
    started_at: float = 0.0

    @property
    def running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    @property
    def just_started(self) -> bool:
        """Whether it is too early to conclude that W&B does not accept the journal."""
        return self.running and time.monotonic() - self.started_at < FIRST_ANSWER_S

    def finish(self, state: str) -> None:
        """Note the state that an attempt reached, and when the next one is due."""
        self.state = state
        self.due_at = time.monotonic() + self.pause_s
        longer_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
        self.pause_s = FIRST_PAUSE_S if state == "complete" else longer_s


@dataclass
class MirrorDeliveries:
    """Delivers the journals of all mirrored runs of one folder, unless another process does.

    Attributes:
        core_gone: wandb-core died: a new process has to go on.
    """

    folder: Path
    core_gone: bool = False
    _lock: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _locked: bool = False
    _deliveries: dict[Path, JournalDelivery] = field(default_factory=dict)
    _others: set[Path] = field(default_factory=set)
    _logged_errors: set[str] = field(default_factory=set)
    _ending: bool = False
    _answered: bool = True
    _ask_again_at: float = 0.0

    @property
    def any_seen(self) -> bool:
        """Whether the folder had a journal of a mirrored run."""
        return bool(self._deliveries)

    def work(self) -> bool:
        """Start what is due; returns whether there is something to do, or to wait for: a journal
        that is new, is being written, or is on its way to a W&B that answers."""
        if not self._locked:
            if not self._journals():
                return False
            lock = file_lock(self.folder / outbox.DELIVERY_LOCK)
            self._locked = self._lock.enter_context(lock)
            if not self._locked:
                self._lock.close()
                return False
        self._update_deliveries()
        self._start_due_deliveries()
        return self.can_proceed()

    def stop(self) -> None:
        """End the waiting for journals to grow, and let other processes deliver."""
        self._ending = True
        self._lock.close()
        self._locked = False

    def _journals(self) -> list[Path]:
        """The journals of mirrored runs; each of the others is looked at once."""
        found = []
        for path in sorted(self.folder.glob(f"*{frames.SUFFIX}")):
            if path in self._deliveries:
                found.append(path)
            elif path not in self._others:
                with contextlib.suppress(MlflowWandbError):
                    mirrored = read_header(path).get("born") == outbox.BORN
                    (found.append if mirrored else self._others.add)(path)
        return found

    def _update_deliveries(self) -> None:
        """Add journals that are new, and forget those that are gone."""
        for path in self._journals():
            if path not in self._deliveries:
                self._deliveries[path] = JournalDelivery(path)
        for path, delivery in list(self._deliveries.items()):
            if not delivery.running and not path.exists():
                del self._deliveries[path]

    def _start_due_deliveries(self) -> None:
        now = time.monotonic()
        running = sum(delivery.running for delivery in self._deliveries.values())
        for delivery in self._deliveries.values():
            if not delivery.running and delivery.due_at <= now and running < MOST_OPEN_RUNS:
                delivery.thread = threading.Thread(
                    target=self._deliver, args=(delivery,), name=delivery.path.stem, daemon=True
                )
                delivery.started_at = now
                delivery.thread.start()
                running += 1

    def can_proceed(self) -> bool:
        """Whether a journal is new, is being written, or is on its way to a W&B that answers."""
        on_its_way = False
        for path in self._journals():
            delivery = self._deliveries.get(path)
            if delivery is None:
                return True
            if trainer_alive(path) or delivery.just_started:
                return True
            on_its_way = on_its_way or delivery.state not in outbox.STUCK
        return on_its_way and self._wandb_answers()

    def _wandb_answers(self) -> bool:
        """Whether W&B answered when it was last asked, at most `ASK_EVERY_S` ago."""
        if time.monotonic() >= self._ask_again_at:
            try:
                if wanted_mode() == "online":
                    Access(patience_s=0).entity()
                self._answered = True
            except MlflowWandbError:
                self._answered = False
            self._ask_again_at = time.monotonic() + ASK_EVERY_S
        return self._answered

    def _deliver(self, delivery: JournalDelivery) -> None:
        delivery.state = ""
        shipment = WandbShipment(delivery.path, follow=True, keep_going=lambda: not self._ending)
        try:
            state = shipment.ship()
            self.core_gone = self.core_gone or shipment.core_gone
        except Exception as error:
            # The journal is still there; another attempt, or another process, goes on from it.
            traceback.print_exc()
            state = shipment.write_status("failed", error=f"{type(error).__name__}: {error}")
        self._log_outcome(delivery.path, state)
        delivery.finish(state)

    def _log_outcome(self, path: Path, state: str) -> None:
        """Print one line for each run that arrived, and one for each kind of error."""
        error = str(read_status(path).get("error") or "")
        if state == "complete":
            print(f"{path.stem}: complete", flush=True)
        elif error and error not in self._logged_errors:
            self._logged_errors.add(error)
            advice = "the journal stays, `mlflow-wandb sync` delivers it"
            print(f"WARNING {path.stem}: {state}: {error}; {advice}", flush=True)
