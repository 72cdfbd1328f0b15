"""Do to a trial what its plan says, and undo it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from faults import disk, plan, proxy
from faults.ledger import FINISHING
from faults.plan import Moment, Trial
from faults.processes import SERVER, TRAINER, pids_of, send
from faults.proxy import Proxy
from faults.script import Script
from faults.servers import MlflowServer

PATIENCE_S, HELPER_START_S = 120.0, 30.0


class Injector:
    """Injects the faults of one trial.

    Args:
        script: the one whose rows tell when.
        disk: the folder that a fault of the disk is in.

    Attributes:
        injected: how many faults have taken effect.
    """

    def __init__(
        self,
        trial: Trial,
        server: MlflowServer,
        between: Proxy,
        script: Script,
        folder: Path,
    ) -> None:
        self.injected = 0
        self._trial, self._fault = trial, trial.fault
        self._server, self._proxy, self._script, self._disk = server, between, script, folder
        self._hits = 0
        self._mend: Callable[[], object] | None = None

    def inject(self, moment: Moment) -> None:
        """Wait for a moment, and let a fault happen for as long as it says."""
        self._wait_for(moment)
        effects, undo = self._begin()
        if self._fault.name in proxy.OF_EACH_REQUEST:
            # A helper that starts on a busy machine sends nothing for many seconds.
            self._script.wait_for(lambda: self._proxy.hits > self._hits, PATIENCE_S)
        time.sleep(moment.lasts_s)
        if undo is not None:
            undo()
        self.injected += effects

    def heal(self) -> None:
        """End what goes on: a disk that takes nothing, or requests that are treated badly."""
        if self._mend is not None:
            self._mend()
        self.injected += self._fault.name in proxy.OF_WRITES and self._proxy.hits > 0
        self._proxy.fault = ""

    def _wait_for(self, moment: Moment) -> None:
        script = self._script
        if moment.phase == plan.ROWS:
            row = int(moment.at * script.rows)
            script.wait_for(lambda: script.ledger().next_row > row, PATIENCE_S)
            return
        if moment.phase == plan.FINISH:
            script.wait_for(lambda: FINISHING in script.ledger().marks, PATIENCE_S)
        time.sleep(moment.at)

    def _begin(self) -> tuple[int, Callable[[], object] | None]:
        """Begin a fault; returns whether it took effect, and what ends it."""
        fault = self._fault
        if fault.on == SERVER:
            return self._hit_server()
        if fault.number is not None:
            return self._hit_process(fault.number)
        if fault.name in plan.NETWORK:
            self._proxy.fault = fault.name
            return 0, None if fault.name in proxy.OF_WRITES else self._end_network_fault
        if fault.name in plan.CLOCKS:
            clock = self._script.folder / "clock"
            clock.write_text(str(self._trial.shift_s))
            return 1, None if self._trial.stays else lambda: clock.write_text("0")
        return self._harm_disk()

    def _hit_server(self) -> tuple[int, Callable[[], object]]:
        number = self._fault.number
        assert number is not None
        self._server.signal(number)
        if number == signal.SIGSTOP:
            return 1, lambda: self._server.signal(signal.SIGCONT)
        return 1, self._server.restart

    def _hit_process(self, number: signal.Signals) -> tuple[int, Callable[[], object] | None]:
        script, role = self._script, self._fault.on
        if role == TRAINER:
            pids = [] if script.ended else [script.process.pid]
        else:
            script.wait_for(lambda: pids_of(role, script.home), HELPER_START_S)
            pids = pids_of(role, script.home)
        sent = send(pids, number)
        stopped = number == signal.SIGSTOP
        return int(sent > 0), (lambda: send(pids, signal.SIGCONT)) if stopped else None

    def _end_network_fault(self) -> None:
        self._proxy.fault = ""
        self.injected += self._proxy.hits > self._hits
        self._hits = self._proxy.hits

    def _harm_disk(self) -> tuple[int, Callable[[], object] | None]:
        harm, mend = disk.fill, disk.free
        if self._fault.name == plan.READ_ONLY:
            harm, mend = disk.make_read_only, disk.make_writable
        harm(self._disk)
        if not self._trial.stays:
            return 1, lambda: mend(self._disk)
        self._mend = lambda: mend(self._disk)
        return 1, None
