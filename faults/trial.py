"""Run one trial: start its scripts, inject its fault, let everything end, deliver, and judge."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from faults import disk, plan, targets, wandb_file
from faults.judge import Found, Verdict, judge
from faults.ledger import FINISHED, FINISHING, Ledger
from faults.plan import LIVE, MIRROR, MIRRORED_SERVER, Trial
from faults.processes import CORE, HELPER, SERVER, TRAINER, pids_of, send
from faults.proxy import Proxies, Proxy
from faults.script import Script, environment
from faults.servers import MlflowServer
from tests.support.environment import isolated
from tests.support.processes import end_all_of
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

HELPER_START_S, SETTLE_S, POLL_S = 30.0, 15.0, 0.05
DISK_MIB = 4
ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ANY_END = ("FINISHED", "FAILED", "KILLED")


@dataclass
class Outcome:
    """What came of a trial."""

    trial: Trial
    injected: int
    verdicts: list[Verdict]
    seconds: float
    folder: Path

    @property
    def clean(self) -> bool:
        return all(verdict.clean for verdict in self.verdicts)


@dataclass
class Place:
    """What all trials of a campaign share.

    Attributes:
        server: takes the runs of all trials but those that hit a server.
        hosts: the servers that are hit, by direction; one trial at a time uses one.
    """

    folder: Path
    template: Path
    wandb: WandbServer
    proxies: Proxies
    server: MlflowServer
    rows: int
    hosts: dict[str, MlflowServer] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def host(self, direction: str) -> Iterator[MlflowServer]:
        """The server of a direction that may be hit, for one trial at a time."""
        with self._guard:
            if direction not in self.hosts:
                folder = self.folder / f"host-{direction}"
                prefix, env = "", isolated(folder / "env")
                if direction == MIRRORED_SERVER:
                    prefix, env = "wandb+", environment(folder, self.wandb, self.wandb.url, "")
                self.hosts[direction] = MlflowServer(folder, self.template, env, prefix)
            host = self.hosts[direction]
            if not host.answers():
                host.restart() if host.started else host.start()
            yield host


def run(trial: Trial, place: Place) -> Outcome:
    """Run ``trial``; whatever it started is ended."""
    folder = place.folder / trial.name
    folder.mkdir(parents=True)
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.callback(end_all_of, folder)
        hit = trial.fault.direction == MIRRORED_SERVER or trial.fault.on == SERVER
        server = stack.enter_context(place.host(trial.fault.direction)) if hit else place.server
        running = RunningTrial(trial, place, server, folder, stack)
        injected, verdicts = running.run()
    return Outcome(trial, injected, verdicts, time.monotonic() - begin, folder)


class RunningTrial:
    """A trial under way."""

    def __init__(
        self,
        trial: Trial,
        place: Place,
        server: MlflowServer,
        folder: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self._trial, self._place, self._server = trial, place, server
        self._fault = trial.fault
        self._direction = trial.fault.direction
        self._folder = folder
        self._hung: set[str] = set()
        mirrors = self._direction == MIRROR
        port = urlsplit(place.wandb.url).port if mirrors else server.port
        assert port is not None
        self._proxy: Proxy = place.proxies.to(port, trial.name)
        stack.callback(self._proxy.close)
        self._scripts = [self._script(number, stack) for number in range(trial.runs)]

    def run(self) -> tuple[int, list[Verdict]]:
        """Returns how many faults took effect, and the verdict of each script's run."""
        for script in self._scripts:
            script.start()
        self._wait_for_moment()
        injected, heal = self._inject()
        time.sleep(self._trial.lasts_s)
        heal()
        self._let_end()
        self._deliver()
        verdicts = [self._judge(script) for script in self._scripts]
        return self._proxy.hits if self._fault.name in plan.NETWORK else injected, verdicts

    # Before

    def _script(self, number: int, stack: contextlib.ExitStack) -> Script:
        trial, place = self._trial, self._place
        folder = self._folder / str(number)
        folder.mkdir()
        name = f"{trial.name}-{number}"
        if self._direction == LIVE:
            env = environment(folder, place.wandb, place.wandb.url, self._proxy.url)
            module = "live"
        elif self._direction == MIRROR:
            uri = copy_store(place.template, folder / "mlflow.db")
            env = environment(folder, place.wandb, self._proxy.url, f"wandb+{uri}")
            module = "mirror"
        else:
            env = environment(folder, place.wandb, place.wandb.url, self._proxy.url)
            module = "mirror"
        if self._fault.name in plan.DISKS:
            stack.enter_context(disk.small_disk(self._small_disk(env), DISK_MIB))
        resume = trial.resume and self._fault.on == TRAINER
        return Script(folder, env, module, name, place.rows, resume)

    def _small_disk(self, env: dict[str, str]) -> Path:
        variable = "WANDB_DIR" if self._fault.name == plan.FULL_ALL else "MLFLOW_WANDB_JOURNAL_DIR"
        if self._fault.name == plan.FULL_ALL:
            env.pop("MLFLOW_WANDB_JOURNAL_DIR")
        return Path(env[variable])

    # The fault

    def _wait_for_moment(self) -> None:
        script, trial = self._scripts[0], self._trial
        if trial.phase == plan.ROWS:
            row = int(trial.moment * script.rows)
            script.wait_for(lambda: script.ledger().next_row > row, 120)
            return
        if trial.phase == plan.FINISH:
            script.wait_for(lambda: FINISHING in script.ledger().marks, 120)
        time.sleep(trial.moment)

    def _inject(self) -> tuple[int, Callable[[], object]]:
        """Returns how many faults took effect, and what ends them."""
        fault = self._fault
        if fault.on == SERVER:
            return self._hit_server()
        if fault.number is not None:
            return self._hit_process(fault.number)
        if fault.name in plan.NETWORK:
            self._proxy.fault = fault.name
            return 0, self._end_network_fault
        if fault.name in plan.CLOCKS:
            return self._shift_clock()
        return self._harm_disk()

    def _hit_server(self) -> tuple[int, Callable[[], object]]:
        number = self._fault.number
        assert number is not None
        self._server.signal(number)
        if number == signal.SIGSTOP:
            return 1, lambda: self._server.signal(signal.SIGCONT)
        return 1, self._server.restart

    def _hit_process(self, number: signal.Signals) -> tuple[int, Callable[[], object]]:
        script, role = self._scripts[0], self._fault.on
        if role == TRAINER:
            pids = [] if script.ended else [script.process.pid]
        else:
            script.wait_for(lambda: pids_of(role, script.home), HELPER_START_S)
            pids = pids_of(role, script.home)
        sent = send(pids, number)
        return bool(sent), lambda: send(pids, signal.SIGCONT) if number == signal.SIGSTOP else None

    def _end_network_fault(self) -> None:
        if self._fault.name in plan.proxy.OF_EACH_REQUEST:
            self._proxy.fault = ""

    def _shift_clock(self) -> tuple[int, Callable[[], object]]:
        clock = self._scripts[0].folder / "clock"
        clock.write_text(str(self._trial.shift_s))
        return 1, lambda: None if self._trial.resume else clock.write_text("0")

    def _harm_disk(self) -> tuple[int, Callable[[], object]]:
        """A disk of which the trial says so is well again while the script runs."""
        place = self._small_disk(dict(self._scripts[0].env))
        harm, mend = disk.fill, disk.free
        if self._fault.name == plan.READ_ONLY:
            harm, mend = disk.make_read_only, disk.make_writable
        harm(place)
        if self._trial.resume:
            return 1, lambda: mend(place)
        self._mend = lambda: mend(place)
        return 1, lambda: None

    _mend: Callable[[], object] = staticmethod(lambda: None)

    # Afterwards

    def _let_end(self) -> None:
        """Wait for the scripts, and start those again that the fault ended, if the trial says so."""
        for script in self._scripts:
            self._note_hang(script, script.wait())
            over = FINISHED in script.ledger().marks
            if not over and self._trial.resume and self._fault.on == TRAINER:
                script.start()
                self._note_hang(script, script.wait())
        self._mend()
        self._proxy.fault = ""

    def _note_hang(self, script: Script, ended: bool) -> None:
        if not ended:
            self._hung.add(script.run)

    def _deliver(self) -> None:
        """Give helpers a while; what is left then is `mlflow-wandb sync`'s, and a backfill's."""
        self._errors: dict[str, list[str]] = {}
        for script in self._scripts:
            folder = self._journal_folder(script)
            deadline = time.monotonic() + SETTLE_S
            while list(folder.glob("[!.]*.journal")) and time.monotonic() < deadline:
                if not pids_of(HELPER, Path(self._delivering_env(script)["HOME"])):
                    break
                time.sleep(POLL_S)
            errors = self._errors[script.run] = []
            if list(folder.glob("[!.]*.journal")):
                errors.append(script.command("sync", env=self._delivering_env(script)))
            if self._fault.name in plan.DISKS:
                errors.append(script.command(*self._backfill(script)))

    def _journal_folder(self, script: Script) -> Path:
        env = self._delivering_env(script)
        own = env.get("MLFLOW_WANDB_JOURNAL_DIR")
        if own:
            return Path(own)
        name = "mlflow" if self._direction == LIVE else "mirror"
        return Path(env["WANDB_DIR"]) / "wandb" / name

    def _delivering_env(self, script: Script) -> dict[str, str]:
        """The environment of whoever writes the journals: the script, or the mirroring server."""
        if self._direction != MIRRORED_SERVER:
            return script.env
        host = self._place.folder / f"host-{MIRRORED_SERVER}"
        return environment(host, self._place.wandb, self._place.wandb.url, "")

    def _backfill(self, script: Script) -> list[str | Path]:
        if self._direction == LIVE:
            return ["backfill", Path(script.env["WANDB_DIR"]) / "wandb", "--to", self._server.url]
        entity = self._place.wandb.store.user.username
        uri = f"sqlite:///{script.folder / 'mlflow.db'}"
        return ["backfill", uri, "--to", f"wandb://{entity}"]

    def _judge(self, script: Script) -> Verdict:
        ledger = script.ledger()
        if self._direction == LIVE:
            found = targets.in_mlflow(self._server.database, script.run)
            due = self._due_in_mlflow(script, ledger)
        else:
            found = targets.in_wandb(self._place.wandb, ledger.run_id)
            due = set(ledger.accepted)
        if not ledger.run_id and self._direction != LIVE:
            # The script was ended before MLflow had told it its run.
            found = Found()
        verdict = judge(found, ledger, due, self._statuses(ledger))
        verdict.wrong += [error for error in self._errors[script.run] if error]
        if self._hung & {script.run}:
            verdict.wrong.append("the script hangs")
        elif self._fault.on not in (TRAINER, CORE, SERVER) and FINISHED not in ledger.marks:
            verdict.wrong.append("the script failed")
        if ledger.refused and self._fault.on not in (CORE, SERVER):
            verdict.wrong.append(f"{len(ledger.refused)} calls raised")
        if list(self._journal_folder(script).glob(f"*{self._own_id(script, ledger)}.journal")):
            verdict.wrong.append("a journal is left")
        return verdict

    def _own_id(self, script: Script, ledger: Ledger) -> str:
        return script.run if self._direction == LIVE else (ledger.run_id or "-")

    def _due_in_mlflow(self, script: Script, ledger: Ledger) -> set[int]:
        """Rows that `log()` returned from, and those of W&B's own log. Where the journal could not
        be written, the latter alone."""
        logs = Path(script.env["WANDB_DIR"]).rglob("*.wandb")
        in_log = set().union(*(wandb_file.steps(path) for path in logs)) & ledger.begun
        return in_log if self._fault.name in plan.DISKS else in_log | ledger.accepted

    def _statuses(self, ledger: Ledger) -> tuple[str, ...]:
        """The run's final states that are right."""
        ended = self._fault.on == TRAINER and self._fault.number in ENDING
        finished = FINISHED in ledger.marks
        if self._direction == LIVE:
            if self._fault.on == CORE and self._fault.number in ENDING:
                return ANY_END
            if ended and not finished:
                # At its very end, the run may be over already.
                return ("KILLED", "FINISHED") if FINISHING in ledger.marks else ("KILLED",)
            return ("FINISHED",)
        if ended and not finished:
            return ("failed", "finished") if FINISHING in ledger.marks else ("failed",)
        return ("finished",)
