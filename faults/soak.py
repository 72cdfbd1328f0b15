"""Log for a long time and watch memory and lag: ``make soak``, or

    python -m faults.soak [--minutes 10] [--drain 10] [--processes 8] [--rate 50] [--keys 20]

Training processes log RATE rows of KEYS numbers a second each into one `mlflow server` on
``fast+sqlite``, or with ``--plain`` on ``sqlite``; wandb is offline. The server has one worker
(``--workers``): those of several are killed by their supervisor if they are busy for five seconds.
Every tenth of a minute the memory of trainers and helpers is read, and how many rows were logged
and how many MLflow has; the difference is the lag. After the last row it waits until MLflow has
everything, for DRAIN minutes at most. The verdict is on the second quarter and the last one: memory
is flat if it grew by no more than a tenth, and the lag is bounded if it did not grow by more than
ten seconds' rows. The exit code is 1 if one of the two is not so, or a row is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.processes import HELPER, pids_of, resident_kib
from faults.script import ROOT
from faults.servers import MlflowServer, running
from tests.support.environment import isolated
from tests.support.processes import end_all_of
from tests.support.stores import make_template

EVERY_S, START_S = 6.0, 60.0
MOST_GROWTH, MOST_LAG_S = 1.1, 10.0
COLUMNS = ("s", "rows logged", "rows in MLflow", "lag", "trainers MB", "helpers", "helpers MB")


@dataclass(frozen=True)
class Sample:
    """One look; memory in MB."""

    at_s: float
    logged: int
    arrived: int
    trainers: float
    helpers: float
    helper_count: int

    @property
    def lag(self) -> int:
        return self.logged - self.arrived

    def row(self) -> tuple[str, ...]:
        """Its cells, as in `COLUMNS`."""
        return (
            f"{self.at_s:.0f}", f"{self.logged:,}", f"{self.arrived:,}", f"{self.lag:,}",
            f"{self.trainers:.0f}", str(self.helper_count), f"{self.helpers:.0f}",
        )  # fmt: skip


class Soak:
    """A soak under way.

    Args:
        folder: for all that it writes.
        options: see the module's text.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder, self._options = folder, options
        template = make_template(folder / "empty.db")
        env = isolated(folder / "server" / "env")
        prefix = "" if options.plain else "fast+"
        self._server = MlflowServer(folder / "server", template, env, prefix, options.workers)
        (folder / "trainers").mkdir()
        self._env = isolated(
            folder / "trainers",
            MLFLOW_TRACKING_URI=self._server.url,
            MLFLOW_WANDB_FINISH_TIMEOUT=str(60 * options.minutes),
            PYTHONPATH=str(ROOT),
        )
        self._trainers: list[subprocess.Popen[bytes]] = []
        self._begin = 0.0

    def run(self) -> list[Sample]:
        """Log, and wait for the rest; returns what was seen, the last one after the end."""
        with running(self._server), contextlib.ExitStack() as stack:
            stack.callback(end_all_of, self._folder)
            stack.callback(self._end_trainers)
            self._start_trainers()
            samples: list[Sample] = []
            at_most_s = 60 * (self._options.minutes + self._options.drain) + START_S
            while not samples or not self._is_over(samples[-1], at_most_s):
                time.sleep(EVERY_S)
                samples.append(self._look())
                _print_row(samples[-1].row())
            return samples

    def _is_over(self, sample: Sample, at_most_s: float) -> bool:
        """Whether nobody logs any more, and MLflow has all rows or will not get them in time."""
        logging = any(trainer.poll() is None for trainer in self._trainers)
        return sample.at_s > at_most_s or not (logging or sample.lag)

    def _start_trainers(self) -> None:
        options = self._options
        self._begin = time.monotonic()
        with open(self._folder / "trainers.log", "ab") as log:
            for number in range(options.processes):
                command = [
                    sys.executable, "-m", "faults.programs.soak",
                    str(self._count(number)), f"soak-{number}", str(options.rate),
                    str(options.keys), str(60 * options.minutes),
                ]  # fmt: skip
                self._trainers.append(
                    subprocess.Popen(
                        command, env=self._env, cwd=self._folder / "trainers", stdout=log,
                        stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                    )
                )  # fmt: skip

    def _end_trainers(self) -> None:
        for trainer in self._trainers:
            trainer.kill()
            trainer.wait(timeout=30)

    def _count(self, number: int) -> Path:
        return self._folder / f"count-{number}"

    def _look(self) -> Sample:
        logged = 0
        for number in range(self._options.processes):
            with contextlib.suppress(FileNotFoundError):
                logged += int(self._count(number).read_text())
        helpers = pids_of(HELPER, Path(self._env["HOME"]))
        trainers = sum(resident_kib(trainer.pid) for trainer in self._trainers) / 1024
        of_helpers = sum(map(resident_kib, helpers)) / 1024
        at_s = time.monotonic() - self._begin
        return Sample(at_s, logged, self._arrived(), trainers, of_helpers, len(helpers))

    def _arrived(self) -> int:
        """Whole rows in MLflow's database; nothing else logs metrics there, or deletes any."""
        uri = f"file:{self._server.database}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=60)) as store:
            [last] = store.execute("SELECT MAX(rowid) FROM metrics").fetchone()
        return int(last or 0) // int(self._options.keys)


def verdict(samples: Sequence[Sample], seconds: float, rows_per_s: float) -> list[str]:
    """What is wrong, by the rules of the module's text; nothing if all is well."""
    second = [sample for sample in samples if seconds / 4 <= sample.at_s < seconds / 2]
    last = [sample for sample in samples if 3 * seconds / 4 <= sample.at_s < seconds]
    if not second or not last:
        return ["too short to judge"]
    wrong = []
    for name in ("trainers", "helpers"):
        before, after = (
            statistics.median(getattr(sample, name) for sample in quarter)
            for quarter in (second, last)
        )
        if after > MOST_GROWTH * before:
            wrong.append(f"memory of {name} grew from {before:.0f} to {after:.0f} MB")
    lags = [statistics.median(sample.lag for sample in quarter) for quarter in (second, last)]
    if lags[1] - lags[0] > MOST_LAG_S * rows_per_s:
        wrong.append(f"the lag grew from {lags[0]:,.0f} to {lags[1]:,.0f} rows")
    if samples[-1].lag:
        wrong.append(f"{samples[-1].lag} rows are missing at the end")
    return wrong


def _print_row(cells: Sequence[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m faults.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long to log")
    parser.add_argument("--drain", type=float, default=10, help="how long to wait afterwards")
    parser.add_argument("--processes", type=int, default=8, help="training processes")
    parser.add_argument("--rate", type=float, default=50, help="rows a second of each")
    parser.add_argument("--keys", type=int, default=20, help="numbers of a row")
    parser.add_argument("--workers", type=int, default=1, help="workers of mlflow server")
    parser.add_argument("--plain", action="store_true", help="a server without fast+")
    options = parser.parse_args(arguments)
    # So that whatever was started is ended, however the soak is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _print_row(COLUMNS)
    _print_row(("---",) * len(COLUMNS))
    with tempfile.TemporaryDirectory(prefix="mlflow-wandb-soak-") as name:
        samples = Soak(Path(name), options).run()
    wrong = verdict(samples, 60 * options.minutes, options.processes * options.rate)
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{cores} cores, load {load:.1f}: {'; '.join(wrong) or 'memory flat, lag bounded'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
