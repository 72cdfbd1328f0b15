"""Inject faults into training runs and count what is lost: ``make faults``, or

    python -m faults [--seed 1] [--count 220] [--jobs 4] [--rows 300] [--only TEXT] [--keep]

Each trial is one or two faults in a training script, or in a server that two scripts write to; see
docs/faults.md. ``--only`` runs the same trials of the kinds whose name contains TEXT, such as
``sigkill-helper``, ``mirror/`` or ``live/reset``. The exit code is 1 if a row was lost or doubled,
or a run is in the wrong state; folders of such trials are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from faults import disk, plan
from faults.plan import Trial
from faults.proxy import Proxies
from faults.servers import MlflowServer, running
from faults.trial import Outcome, Place, run
from tests.support.environment import isolated
from tests.support.processes import end_all_of
from tests.support.stores import make_template
from tests.wandb_server import WandbServer

_printing = threading.Lock()


def main(arguments: Sequence[str]) -> int:
    # So that whatever was started is ended, however the campaign is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = _options(arguments)
    trials = plan.trials(options.seed, options.count, options.only)
    if not disk.can_mount():
        print("disks that are full or read-only need Linux and root: left out", flush=True)
        trials = [trial for trial in trials if trial.fault.name not in plan.DISKS]
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="mlflow-wandb-faults-"))
    try:
        outcomes = _campaign(folder, trials, options)
    finally:
        end_all_of(folder)
        if not any((folder / trial.name).exists() for trial in trials):
            shutil.rmtree(folder, ignore_errors=True)
    minutes = (time.monotonic() - begin) / 60
    _show(outcomes)
    injected = sum(outcome.injected for outcome in outcomes)
    bad = sum(not outcome.clean for outcome in outcomes)
    print(
        f"seed {options.seed}: {injected} faults in {len(trials)} trials, {minutes:.1f} min, "
        f"{bad} trials with something lost, doubled or wrong"
    )
    if folder.exists():
        print(f"what is left of them: {folder}")
    return 1 if bad or len(outcomes) < len(trials) else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--count",
        type=int,
        default=220,
        help="faults planned at least; a script may end before its last one",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=4,
        help="trials at once, without those that hit a server",
    )
    parser.add_argument("--rows", type=int, default=300, help="rows of a script")
    parser.add_argument("--only", default="", help="only kinds of faults that contain this text")
    parser.add_argument("--keep", action="store_true", help="keep the folders of clean trials, too")
    return parser.parse_args(arguments)


def _campaign(folder: Path, trials: Sequence[Trial], options: argparse.Namespace) -> list[Outcome]:
    template = make_template(folder / "empty.db")
    with contextlib.ExitStack() as stack:
        wandb = stack.enter_context(WandbServer(folder / "wandb"))
        proxies = stack.enter_context(Proxies())
        server = MlflowServer(folder / "server", template, isolated(folder / "server" / "env"))
        stack.enter_context(running(server))
        place = Place(folder, template, wandb, proxies, server, options.rows)
        stack.callback(place.end_hosts)
        pools = {lane: ThreadPoolExecutor(1) for lane in plan.LANES}
        pools[""] = ThreadPoolExecutor(options.jobs)
        for pool in pools.values():
            stack.callback(pool.shutdown, cancel_futures=True)
        futures = [pools[trial.lane].submit(_run, trial, place, options.keep) for trial in trials]
        found = []
        for number, future in enumerate(as_completed(futures), 1):
            outcome = future.result()
            if outcome is not None:
                found.append(outcome)
                _tell(number, len(trials), outcome)
        return found


def _run(trial: Trial, place: Place, keep: bool) -> Outcome | None:
    try:
        outcome = run(trial, place)
    except Exception:
        with _printing:
            print(f"{trial.name}: the campaign failed\n{traceback.format_exc()}", flush=True)
        return None
    if outcome.clean and not keep:
        shutil.rmtree(outcome.folder, ignore_errors=True)
    return outcome


def _tell(number: int, of: int, outcome: Outcome) -> None:
    trial = outcome.trial
    phases = "+".join(moment.phase for moment in trial.moments)
    print(f"[{number}/{of}] {trial.name}, {phases}, {outcome.seconds:.0f} s", end="")
    for verdict in outcome.verdicts:
        if not verdict.clean:
            told = {"wrong": verdict.wrong, "lost": verdict.lost, "doubled": verdict.doubled}
            print(f"\n    {json.dumps(told)}"[:600], end="")
    late = outcome.injected < len(trial.moments)
    print(f", {outcome.injected} of {len(trial.moments)} faults in time" * late, flush=True)


def _show(outcomes: Sequence[Outcome]) -> None:
    """The table: a line for each kind of fault."""
    head = ("fault", "faults", "runs", "rows", "lost", "doubled", "wrong state")
    lines = []
    for kind in plan.kinds():
        these = [outcome for outcome in outcomes if outcome.trial.fault == kind]
        verdicts = [verdict for outcome in these for verdict in outcome.verdicts]
        if these:
            lines.append((
                kind.label, sum(outcome.injected for outcome in these), len(verdicts),
                sum(verdict.rows for verdict in verdicts),
                sum(len(verdict.lost) for verdict in verdicts),
                sum(len(verdict.doubled) for verdict in verdicts),
                sum(bool(verdict.wrong) for verdict in verdicts),
            ))  # fmt: skip
    total = ("all", *(sum(int(line[column]) for line in lines) for column in range(1, len(head))))
    for line in (head, ("---",) * len(head), *lines, total):
        print("| " + " | ".join(map(str, line)) + " |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
