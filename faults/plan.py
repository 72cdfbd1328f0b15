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
LANES = (LIVE, MIRRORED_SERVER)
"""Directions that have a server to be hit; the trials that use it run one after the other."""
PHASES = START, ROWS, FINISH = "start", "rows", "finish"
ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
UNREPEATABLE = tuple(f"{LIVE}/{number.name.lower()}-{CORE}" for number in ENDING)
"""Nobody starts the wandb-core of a training script again."""


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
class Moment:
    """When a fault begins and how long it lasts.

    Attributes:
        phase: `START`: ``at`` seconds after the script's start; `ROWS`: at a share of the rows;
            `FINISH`: ``at`` seconds after the last row.
        lasts_s: until the fault is over, where that depends on the campaign.
    """

    phase: str
    at: float
    lasts_s: float


@dataclass(frozen=True)
class Trial:
    """One kind of fault in one training run, or in those that write to one server.

    Attributes:
        moments: of each fault, in their order.
        resume: whether a script that the fault ended is started again.
        stays: whether a shifted clock, or a disk that takes nothing, stays so to the script's end.
        shift_s: of the clock.
        runs: how many scripts it hits.
    """

    fault: Fault
    number: int
    moments: tuple[Moment, ...]
    resume: bool
    stays: bool
    shift_s: float
    runs: int = 1

    @property
    def lane(self) -> str:
        """Which of `LANES` the trial is in; empty for one that runs beside any other."""
        hits = self.fault.on == SERVER or self.fault.direction == MIRRORED_SERVER
        return self.fault.direction if hits else ""

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
    """The trials of a campaign with at least ``count`` faults of all kinds together.

    ``only`` keeps those of the kinds whose label contains it, the same ones as without it.
    """
    rounds: list[list[Trial]] = []
    while sum(len(trial.moments) for each in rounds for trial in each) < count:
        rounds.append([_trial(seed, fault, len(rounds)) for fault in kinds()])
    return [trial for each in rounds for trial in each if only in trial.fault.label]


def _trial(seed: int, fault: Fault, number: int) -> Trial:
    chance = random.Random(f"{seed}/{fault.label}/{number}")
    # Every other script that the fault ends is started again, and hit twice.
    resume = fault.on == TRAINER and fault.number in ENDING and number % 2 == 1
    times = _times(fault, resume)
    phases = [chance.choices((START, ROWS, FINISH), (1, 4, 1))[0] for _ in range(times)]
    if fault.name in proxy.OF_WRITES:
        phases = [START]
    moments = [_moment(chance, phase) for phase in phases]
    shift_s = chance.choice((5.0, 3600.0, 86400.0))
    return Trial(
        fault,
        number,
        tuple(sorted(moments, key=lambda moment: (PHASES.index(moment.phase), moment.at))),
        resume,
        stays=chance.random() < 0.5,
        shift_s=-shift_s if fault.name == CLOCK_BACK else shift_s,
        runs=2 if fault.on == SERVER else 1,
    )


def _times(fault: Fault, resume: bool) -> int:
    """How often a fault happens in one trial."""
    if fault.on == TRAINER and fault.number in ENDING:
        return 2 if resume else 1
    if fault.name in (*proxy.OF_WRITES, *DISKS) or fault.label in UNREPEATABLE:
        return 1
    if fault.name in proxy.OF_EACH_REQUEST or fault.number == signal.SIGSTOP:
        return 3
    # A server takes long to start again.
    return 1 if fault.on == SERVER else 2


def _moment(chance: random.Random, phase: str) -> Moment:
    at = {START: 2.5, ROWS: 0.95, FINISH: 0.3}[phase] * chance.random()
    return Moment(phase, at, chance.uniform(0.3, 2.0))
