"""``python -m mlflow_wandb_plugin.replicator.forwarder FOLDER``: deliver journals to W&B.

There is one forwarder for each folder, started by the processes that write journals there. It
delivers all journals of mirrored MLflow runs, stays while one of them is being written or W&B may
still accept something, waits a while for more, and ends. What is left stays in the journals for the
next forwarder, or for ``mlflow-wandb sync``.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_wandb_plugin.core.helper_process import lower_priority
from mlflow_wandb_plugin.core.locks import file_lock
from mlflow_wandb_plugin.core.training_settings import load_settings
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.journal_folder import open_folder
from mlflow_wandb_plugin.journal.journal_locks import trainer_alive
from mlflow_wandb_plugin.journal.status_file import read_status
from mlflow_wandb_plugin.replicator.wandb_shipment import WandbShipment, is_mirrored
from mlflow_wandb_plugin.settings import PREFIX
from mlflow_wandb_plugin.targets.wandb.log_upload import unset_user_run_variables
from mlflow_wandb_plugin.targets.wandb.lookup import Access, wanted_mode

POLL_S = 0.25
LOCK_PATIENCE_S = 1.0
"""Processes that test whether a forwarder runs hold its lock for an instant."""
MOST_OPEN_RUNS = 64
"""Runs that are open in W&B at the same time."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Between two attempts to deliver a journal."""
FIRST_ANSWER_S = 15.0
"""After this time an attempt that goes on is no longer taken as a sign that W&B answers."""
ASK_EVERY_S = 5.0
"""Between two questions whether W&B answers."""
RESTARTS, MOST_RESTARTS = f"{PREFIX}FORWARDER_STARTS", 5
"""The environment variable that counts restarts after wandb-core died, and its limit."""


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
class Forwarder:
    """Delivers the journals of all mirrored runs of one folder.

    Args:
        linger_s: seconds to stay when nothing can be done.
    """

    folder: Path
    linger_s: float = 30.0
    _deliveries: dict[Path, JournalDelivery] = field(default_factory=dict)
    _logged_errors: set[str] = field(default_factory=set)
    _ending: bool = False
    _core_gone: bool = False
    _answered: bool = True
    _ask_again_at: float = 0.0

    def run(self) -> bool:
        """Work until there is nothing left to do, or another forwarder has the folder's lock.

        Returns:
            False where wandb-core died: a new process has to go on.
        """
        while True:
            with file_lock(self.folder / outbox.FORWARDER_LOCK, LOCK_PATIENCE_S) as locked:
                if not locked:
                    return True
                self._ending = False
                self._work()
            # For a journal that appeared before the lock was released, nobody started a forwarder.
            if self._core_gone or not self._can_proceed():
                return not self._core_gone

    def _work(self) -> None:
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < self.linger_s and not self._core_gone:
            self._update_deliveries()
            self._start_due_deliveries()
            if self._can_proceed():
                idle_since = time.monotonic()
            time.sleep(POLL_S)
        self._ending = True

    def _journals(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{frames.SUFFIX}"))

    def _update_deliveries(self) -> None:
        """Add journals that are new, and forget those that are gone."""
        for path in self._journals():
            if path not in self._deliveries and is_mirrored(path):
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

    def _can_proceed(self) -> bool:
        """Whether a journal is new, is being written, or is on its way to a W&B that answers."""
        on_its_way = False
        for path in self._journals():
            delivery = self._deliveries.get(path)
            if delivery is None:
                if is_mirrored(path):
                    return True
            elif trainer_alive(path) or delivery.just_started:
                return True
            else:
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
            self._core_gone = self._core_gone or shipment.core_gone
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


def main() -> None:
    lower_priority()
    unset_user_run_variables()
    os.environ[f"{PREFIX}HOMES"] = "wandb"
    os.environ[f"{PREFIX}MIRROR"] = "off"
    folder = Path(sys.argv[1])
    open_folder(folder)
    done = Forwarder(folder, load_settings().linger).run()
    sys.stdout.flush()
    restarts = int(os.environ.get(RESTARTS) or 0)
    if not done and restarts < MOST_RESTARTS:
        # wandb-core has died: a new process like this one goes on.
        os.environ[RESTARTS] = str(restarts + 1)
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])
    # Threads that wait for a W&B that does not answer would delay the interpreter's exit; their
    # journals are complete, and wandb-core ends with this process.
    os._exit(0)


if __name__ == "__main__":
    main()
