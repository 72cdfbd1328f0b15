"""Run one trial: start its scripts, inject its fault, let everything end, deliver, and judge."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from faults import disk, plan, targets, wandb_file
from faults.injection import Injector
from faults.judge import Found, Verdict, judge
from faults.ledger import FINISHED, FINISHING, Ledger
from faults.plan import ENDING, LIVE, MIRROR, MIRRORED_SERVER, Trial
from faults.processes import CORE, HELPER, SERVER, TRAINER, pids_of
from faults.proxy import BLACK_HOLE, Proxies, Proxy
from faults.script import Script, environment
from faults.servers import MlflowServer
from tests.support.environment import isolated
from tests.support.processes import end_all_of
from tests.support.stores import copy_store
from tests.wandb_server import WandbServer

SETTLE_S, POLL_S = 15.0, 0.05
HANGING_S = 150.0
"""A request without an answer is given up after this time by every client, W&B's after 90 s."""
DISK_MIB = 4
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
        hosts: the servers that are hit, by `Trial.lane`; one trial at a time uses one.
    """

    folder: Path
    template: Path
    wandb: WandbServer
    proxies: Proxies
    server: MlflowServer
    rows: int
    hosts: dict[str, MlflowServer] = field(default_factory=dict)

    def host(self, lane: str) -> MlflowServer:
        """The server of a lane, which answers."""
        if lane not in self.hosts:
            folder = self.folder / f"host-{lane}"
            prefix, env = "", isolated(folder / "env")
            if lane == MIRRORED_SERVER:
                prefix, env = "wandb+", environment(folder, self.wandb, self.wandb.url, "")
            self.hosts[lane] = MlflowServer(folder, self.template, env, prefix)
            self.hosts[lane].start()
        elif not self.hosts[lane].answers():
            self.hosts[lane].restart()
        return self.hosts[lane]

    def end_hosts(self) -> None:
        for host in self.hosts.values():
            host.end()


def run(trial: Trial, place: Place) -> Outcome:
    """Run ``trial``; whatever it started is ended."""
    folder = place.folder / trial.name
    folder.mkdir(parents=True)
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.callback(end_all_of, folder)
        server = place.host(trial.lane) if trial.lane else place.server
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
        self._disk = Path()
        self._errors: dict[str, list[str]] = {}
        mirrors = self._direction == MIRROR
        port = urlsplit(place.wandb.url).port if mirrors else server.port
        assert port is not None
        # MLflow's client waits a second and more after an answer that was lost, for each row.
        share = 0.05 if self._direction == MIRRORED_SERVER else 0.3
        self._proxy: Proxy = place.proxies.to(port, trial.name, share)
        stack.callback(self._proxy.close)
        self._scripts = [self._script(number, stack) for number in range(trial.runs)]

    def run(self) -> tuple[int, list[Verdict]]:
        """Returns how many faults took effect, and the verdict of each script's run."""
        for script in self._scripts:
            script.start()
        injector = Injector(self._trial, self._server, self._proxy, self._scripts[0], self._disk)
        for moment in self._trial.moments:
            injector.inject(moment)
            self._start_again()
        self._let_end()
        injector.heal()
        self._deliver()
        return injector.injected, [self._judge(script) for script in self._scripts]

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
            self._disk = self._small_disk(env)
            stack.enter_context(disk.small_disk(self._disk, DISK_MIB))
        # A row that passes `mlflow server` takes several times as long as one into a file.
        rows = place.rows // 3 if self._direction == MIRRORED_SERVER else place.rows
        return Script(folder, env, module, name, rows, trial.resume)

    def _small_disk(self, env: dict[str, str]) -> Path:
        """The folder that is to be a disk of its own: that of the journals, or all of wandb's."""
        variable = "WANDB_DIR" if self._fault.name == plan.FULL_ALL else "MLFLOW_WANDB_JOURNAL_DIR"
        if self._fault.name == plan.FULL_ALL:
            env.pop("MLFLOW_WANDB_JOURNAL_DIR")
        return Path(env[variable])

    # Afterwards

    def _start_again(self) -> None:
        """Start a script again that the fault ended, if the trial says so."""
        script = self._scripts[0]
        if self._trial.resume:
            self._let_end()
            if FINISHED not in script.ledger().marks:
                script.start()

    def _let_end(self) -> None:
        for script in self._scripts:
            if not script.wait():
                self._hung.add(script.run)

    def _deliver(self) -> None:
        """Give helpers a while; what is left then is `mlflow-wandb sync`'s, and a backfill's."""
        for script in self._scripts:
            folder = self._journal_folder(script)
            patience_s = HANGING_S if self._fault.name == BLACK_HOLE else SETTLE_S
            deadline = time.monotonic() + patience_s
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
        verdict = judge(found, ledger, due, self._statuses(script, ledger))
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
        in_log = set().union(*map(wandb_file.steps, self._logs(script))) & ledger.begun
        return in_log if self._fault.name in plan.DISKS else in_log | ledger.accepted

    def _logs(self, script: Script) -> list[Path]:
        """W&B's own logs of a script's run."""
        return list(Path(script.env["WANDB_DIR"]).rglob("*.wandb"))

    def _statuses(self, script: Script, ledger: Ledger) -> tuple[str, ...]:
        """The run's final states that are right."""
        ended = self._fault.on == TRAINER and self._fault.number in ENDING
        finished = FINISHED in ledger.marks
        if self._direction == LIVE:
            if self._fault.on == CORE and self._fault.number in ENDING:
                return ANY_END
            if ended and not finished:
                # At its very end, the run may be over already.
                return ("KILLED", "FINISHED") if FINISHING in ledger.marks else ("KILLED",)
            if self._fault.name == plan.FULL_ALL and not any(
                map(wandb_file.has_end, self._logs(script))
            ):
                return ("KILLED",)
            return ("FINISHED",)
        if ended and not finished:
            return ("failed", "finished") if FINISHING in ledger.marks else ("failed",)
        return ("finished",)
