"""Change the package in small ways and see whether its tests notice: ``make mutants``, or

    python -m mutants [--seed 1] [--count 60] [--only MODULE]

A mutant is one change in a copy of the checkout: another comparison, ``and`` for ``or``, ``+`` for
``-``, another constant, a ``not`` less, ``return None``, a call less. The tests of its module, see
``areas.py``, are run until one fails; those marked slow and those on PostgreSQL and MySQL are not.
``--only`` tries the same mutants of the modules whose path contains MODULE. The exit code is 1 if
a mutant survived.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mutants.areas import AREAS, Module
from mutants.changes import Change, changes
from mutants.trials import Copy, Outcome

ROOT = Path(__file__).resolve().parents[1]
LONGEST_TEST = 600.0
"""s that the tests of a module may take without a change."""


class Mutant(NamedTuple):
    """A change of a module."""

    module: Module
    change: Change

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in self.change[3:])
        return f"{self.module.path}:{self.change.line}: {before} → {after}"


def sample(seed: int, count: int) -> list[Mutant]:
    """Return mutants, as many of each area; the same for the same seed, count and sources."""
    found = []
    for number, (area, modules) in enumerate(AREAS.items()):
        possible = [
            Mutant(module, change)
            for module in modules
            for change in changes((ROOT / module.path).read_text(encoding="utf-8"), module.without)
        ]
        size = count // len(AREAS) + (number < count % len(AREAS))
        chosen = random.Random(f"{seed} {area}").sample(possible, min(size, len(possible)))
        found += sorted(chosen)
    return found


def judge(mutants: Sequence[Mutant], copy: Copy) -> list[tuple[Mutant, Outcome]]:
    """Try each mutant and tell its outcome."""
    limits: dict[tuple[str, ...], float] = {}
    judged = []
    for number, mutant in enumerate(mutants, 1):
        tests = mutant.module.tests
        if tests not in limits:
            # Several times as long as the tests take: others use the machine, too.
            limits[tests] = 60 + 4 * copy.seconds_unchanged(tests, LONGEST_TEST)
        outcome = copy.try_change(mutant.module.path, mutant.change, tests, limits[tests])
        print(f"[{number}/{len(mutants)}] {outcome.value}: {mutant}", flush=True)
        judged.append((mutant, outcome))
    return judged


def show(judged: Sequence[tuple[Mutant, Outcome]]) -> None:
    """Print a line for each module, and each survivor."""
    counts: dict[str, Counter[Outcome]] = {}
    for mutant, outcome in judged:
        counts.setdefault(mutant.module.path, Counter())[outcome] += 1
    counts["all"] = Counter(outcome for _, outcome in judged)
    for line in (
        ("module", "mutants", *(outcome.value for outcome in Outcome)),
        ("---",) * (2 + len(Outcome)),
        *(
            (path, count.total(), *(count[outcome] for outcome in Outcome))
            for path, count in counts.items()
        ),
    ):
        print("| " + " | ".join(map(str, line)) + " |")
    for mutant, outcome in judged:
        if outcome is Outcome.SURVIVED:
            print(f"survived: {mutant}")


def main(arguments: Sequence[str]) -> int:
    # So that whatever was started is ended, however the campaign is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(
        prog="python -m mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=60, help="mutants of all areas")
    parser.add_argument("--only", default="", help="only modules whose path contains this text")
    options = parser.parse_args(arguments)
    mutants = [
        mutant
        for mutant in sample(options.seed, options.count)
        if options.only in mutant.module.path
    ]
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="mlflow-wandb-mutants-"))
    try:
        judged = judge(mutants, Copy(ROOT, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(judged)
    print(f"seed {options.seed}: {(time.monotonic() - begin) / 60:.1f} min")
    return 1 if any(outcome is Outcome.SURVIVED for _, outcome in judged) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
