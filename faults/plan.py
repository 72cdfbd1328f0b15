"""Which faults a campaign injects: a seed gives the same trials each time, by kind of fault."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass

from faults import proxy
from faults.processes import CORE, HELPER, SERVER, TRAINER

LIVE, MIRROR, MIRRORED_SERVER = "live", "mirror", "mirrored-server"
"""W&B to MLflow; MLflow to W&B; the same with the mirror on `mlflow server`."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
FULL_JOURNAL, FULL_ALL, READ_ONLY = "full-journal", "full-all", "read-only"
CLOCK_FORWARD, CLOCK_BACK = "clock-forward", "clock-back"
DISKS = (FULL_JOURNAL, FULL_ALL, READ_ONLY)
CLOCKS = (CLOCK_FORWARD, CLOCK_BACK)
NETWORK = (*proxy.OF_EACH_REQUEST, *proxy.OF_WRITES)
START, ROWS, FINISH = "start", "rows", "finish"


@dataclass(frozen=True)
class Fault:
    """A kind of fault: what happens, to what, in which direction."""

    name: str
    direction: str
    on: str = ""

    @property
    def label(self) -> str:
        return f"{self.direction}/{self.name}"

    @property
    def number(self) -> signal.Signals | None:
        """The signal, if it is one."""
        name = self.name.partition("-")[0].upper()
        return signal.Signals[name] if name in signal.Signals.__members__ else None


@dataclass(frozen=True)
class Trial:
    """One fault in one training run, or in those that write to one server.

    Attributes:
        phase: `START`: ``moment`` seconds after the start of the script; `ROWS`: at a share of the
            rows; `FINISH`: ``moment`` seconds after the last row.
        lasts_s: until the fault is over, where that depends on the campaign.
        resume: whether a script that the fault ended is started again.
        shift_s: of the clock.
        runs: how many scripts it hits.
    """

    fault: Fault
    number: int
    phase: str
    moment: float
    lasts_s: float
    resume: bool
    shift_s: float
    runs: int = 1

    @property
    def name(self) -> str:
        return f"{self.fault.label}/{self.number}".replace("/", "-")


def kinds() -> list[Fault]:
    """Every kind of fault, in both directions."""
    found = [
        Fault(f"{number.name.lower()}-{role}", direction, role)
        for direction in (LIVE, MIRROR)
        for role in (TRAINER, HELPER, CORE)
        for number in SIGNALS
    ]
    found += [
        Fault(f"{number.name.lower()}-{SERVER}", direction, SERVER)
        for direction in (LIVE, MIRRORED_SERVER)
        for number in SIGNALS
    ]
    found += [Fault(name, LIVE) for name in DISKS]
    found += [Fault(name, MIRROR) for name in (FULL_JOURNAL, READ_ONLY)]
    for direction in (LIVE, MIRROR):
        found += [Fault(name, direction) for name in (*CLOCKS, *NETWORK)]
    found += [Fault(name, MIRRORED_SERVER) for name in proxy.OF_WRITES]
    return found


def trials(seed: int, count: int, only: str = "") -> list[Trial]:
    """At least ``count`` trials, the same number of each kind; ``only`` keeps those whose label
    contains it, with the same numbers."""
    everything = kinds()
    of_each = -(-count // len(everything))
    chosen = [fault for fault in everything if only in fault.label]
    return [_trial(seed, fault, number) for number in range(of_each) for fault in chosen]


def _trial(seed: int, fault: Fault, number: int) -> Trial:
    chance = random.Random(f"{seed}/{fault.label}/{number}")
    phase = chance.choices((START, ROWS, FINISH), (1, 4, 1))[0]
    if fault.name in proxy.OF_WRITES:
        phase = START
    moment = {START: 2.5, ROWS: 0.95, FINISH: 0.3}[phase] * chance.random()
    shift_s = chance.choice((5.0, 3600.0, 86400.0))
    return Trial(
        fault,
        number,
        phase,
        moment,
        lasts_s=chance.uniform(0.5, 3.0),
        resume=chance.random() < 0.5,
        shift_s=-shift_s if fault.name == CLOCK_BACK else shift_s,
        runs=2 if fault.on == SERVER else 1,
    )
