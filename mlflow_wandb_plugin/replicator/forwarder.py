"""``python -m mlflow_wandb_plugin.replicator.forwarder FOLDER``: W&B's side of the outbox.

One a folder, started by whoever writes a journal there. It follows all journals of runs that were
born in MLflow, stays while one of them has a writer or something that W&B may still take, lingers,
and ends. What is left stays in the journals for the next one, or for ``mlflow-wandb sync``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_wandb_plugin.core.helper_process import step_aside
from mlflow_wandb_plugin.errors import MlflowWandbError
from mlflow_wandb_plugin.journal import frames, outbox
from mlflow_wandb_plugin.journal.locks import trainer_alive
from mlflow_wandb_plugin.journal.status import read_status
from mlflow_wandb_plugin.replicator.wandb_shipment import WandbShipment, is_mirrored
from mlflow_wandb_plugin.settings import PREFIX, Settings
from mlflow_wandb_plugin.targets.wandb.lookup import Access, wanted_mode
from mlflow_wandb_plugin.targets.wandb.run_writer import forget_users_run

LOCK = "forwarder.lock"
POLL_S = 0.25
LOCK_PATIENCE_S = 1.0
"""Whoever asks for a forwarder holds its lock for an instant."""
AT_ONCE = 64
"""Runs that are open in W&B at the same time."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Between two tries to carry a journal."""
FAIR_S = 15.0
ASK_EVERY_S = 5.0
STARTS, MOST_STARTS = f"{PREFIX}FORWARDER_STARTS", 5
"""How often a forwarder whose wandb-core died starts anew; the variable counts."""


@dataclass(slots=True)
class Charge:
    """A journal in the forwarder's care."""

    path: Path
    thread: threading.Thread | None = None
    state: str = ""
    pause_s: float = FIRST_PAUSE_S
    due: float = 0.0
    began: float = 0.0

    @property
    def busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    @property
    def just_begun(self) -> bool:
        """Under way, and it is too early to say that W&B does not take it."""
        return self.busy and time.monotonic() - self.began < FAIR_S


@dataclass
class Forwarder:
    """Carries all mirrored runs of one folder.

    Args:
        linger_s: how long to stay when there is nothing that can be done.
    """

    folder: Path
    linger_s: float = 30.0
    _charges: dict[Path, Charge] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    _ending: bool = False
    _core_gone: bool = False
    _answered: bool = True
    _ask_again_at: float = 0.0

    def run(self) -> bool:
        """Work until there is nothing left to do, or another forwarder is at work. False where
        wandb-core died: a new process has to go on."""
        while True:
            with held(self.folder) as mine:
                if not mine:
                    return True
                self._ending = False
                self._work()
            # A journal that came while the lock was held had nobody else to start.
            if self._core_gone or not self._hopeful():
                return not self._core_gone

    def _work(self) -> None:
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < self.linger_s and not self._core_gone:
            self._look_around()
            if self._hopeful():
                idle_since = time.monotonic()
            time.sleep(POLL_S)
        self._ending = True

    def _look_around(self) -> None:
        for path in sorted(self.folder.glob(f"*{frames.SUFFIX}")):
            if path not in self._charges and is_mirrored(path):
                self._charges[path] = Charge(path)
        for path in [p for p, c in self._charges.items() if not c.busy and not p.exists()]:
            del self._charges[path]
        now = time.monotonic()
        running = sum(charge.busy for charge in self._charges.values())
        for charge in self._charges.values():
            if not charge.busy and charge.due <= now and running < AT_ONCE:
                charge.thread = threading.Thread(
                    target=self._ship, args=(charge,), name=charge.path.stem, daemon=True
                )
                charge.began = now
                charge.thread.start()
                running += 1

    def _hopeful(self) -> bool:
        """Whether a journal has a writer, is under way to a W&B that answers, or is new."""
        under_way = False
        for path in self.folder.glob(f"*{frames.SUFFIX}"):
            charge = self._charges.get(path)
            if charge is None:
                if is_mirrored(path):
                    return True
            elif trainer_alive(path) or charge.just_begun:
                return True
            else:
                under_way = under_way or charge.state not in outbox.STUCK
        return under_way and self._answers()

    def _answers(self) -> bool:
        """Whether W&B is there; asked now and then."""
        if time.monotonic() >= self._ask_again_at:
            try:
                if wanted_mode() == "online":
                    Access(patience_s=0).entity()
                self._answered = True
            except MlflowWandbError:
                self._answered = False
            self._ask_again_at = time.monotonic() + ASK_EVERY_S
        return self._answered

    def _ship(self, charge: Charge) -> None:
        charge.state = ""
        mirror = WandbShipment(charge.path, follow=True, keep_going=lambda: not self._ending)
        try:
            charge.state = mirror.ship()
            self._core_gone = self._core_gone or mirror.core_gone
        except Exception as error:
            # The journal is still there; another try, or another process, goes on from it.
            import traceback

            traceback.print_exc()
            charge.state = mirror.say("failed", error=f"{type(error).__name__}: {error}")
        self._tell(charge)
        charge.due = time.monotonic() + charge.pause_s
        more = min(2 * charge.pause_s, LONGEST_PAUSE_S)
        charge.pause_s = FIRST_PAUSE_S if charge.state == "complete" else more

    def _tell(self, charge: Charge) -> None:
        """One line for a run that arrived, one for each sort of trouble."""
        error = str(read_status(charge.path).get("error") or "")
        if charge.state == "complete":
            print(f"{charge.path.stem}: complete", flush=True)
        elif error and error not in self._said:
            self._said.add(error)
            print(
                f"WARNING {charge.path.stem}: {charge.state}: {error}; the journal stays, "
                "`mlflow-wandb sync` delivers it",
                flush=True,
            )


@contextlib.contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; yields False when another forwarder has it."""
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _locked(fd)
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def main() -> None:
    step_aside()
    forget_users_run()
    os.environ[f"{PREFIX}HOMES"] = "wandb"
    os.environ[f"{PREFIX}MIRROR"] = "off"
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    whole = Forwarder(folder, Settings.load().linger).run()
    sys.stdout.flush()
    # Threads that wait for a W&B that does not answer would hold up the interpreter's end; their
    # journals are whole, and wandb-core ends with this process.
    if not whole:
        _start_anew()
    os._exit(0)


def _start_anew() -> None:
    """Replace this process by a new one of its kind; a wandb-core that always dies ends that."""
    starts = int(os.environ.get(STARTS) or 0)
    if starts < MOST_STARTS:
        os.environ[STARTS] = str(starts + 1)
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])


if __name__ == "__main__":
    main()
