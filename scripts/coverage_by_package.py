"""Print the branch coverage of each package, from the report that ``coverage json`` writes.

    python scripts/coverage_by_package.py REPORT.json [--fail-under PERCENT]

``make coverage`` calls it. A line is a package and its figure, the share of the branches that the
tests took; then come the core, which is ``mlflow_wandb_plugin`` with all its sub-packages, and the
total. A package's figure covers its modules and not its sub-packages, which have lines of their
own. The exit code is 1 if the core's figure is below ``--fail-under``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

PACKAGES = (
    "mlflow_wandb_plugin",
    "mlflow_wandb_flyte",
    "mlflow_wandb_ray",
    "mlflow_wandb_torchtune",
)
CORE = "core"
TOTAL = "total"


class Branches(NamedTuple):
    """The number of branches, and of those that the tests took."""

    taken: int = 0
    all: int = 0

    def plus(self, other: Branches) -> Branches:
        """Return the sum of both."""
        return Branches(self.taken + other.taken, self.all + other.all)

    def percent(self) -> float:
        """Return the share that was taken; all of no branches."""
        return 100 * self.taken / self.all if self.all else 100.0

    def figure(self) -> str:
        """Return the share in percent; code without a branch has none."""
        return f"{self.percent():.1f} %" if self.all else "no branches"


def package_of(file: str) -> str:
    """Return the package that a measured file belongs to; empty for a file of no package.

    Args:
        file: a path as the report has it, absolute or relative to the checkout.
    """
    folders = PurePath(file).parts[:-1]
    start = next((n for n, name in enumerate(folders) if name in PACKAGES), None)
    if start is None:
        return ""
    depth = 2 if folders[start] == PACKAGES[0] else 1
    return "/".join(folders[start : start + depth])


def by_package(report: Mapping[str, Any]) -> dict[str, Branches]:
    """Add up the branches of each package in a report of ``coverage json``."""
    found: dict[str, Branches] = {}
    for file, measured in report["files"].items():
        package = package_of(file)
        if package:
            summary = measured["summary"]
            branches = Branches(summary["covered_branches"], summary["num_branches"])
            found[package] = found.get(package, Branches()).plus(branches)
    return found


def core(found: Mapping[str, Branches]) -> Branches:
    """Add up the branches of ``mlflow_wandb_plugin`` and of its sub-packages."""
    return _sum(found[name] for name in found if name.split("/")[0] == PACKAGES[0])


def lines(found: Mapping[str, Branches]) -> list[str]:
    """Return a line for each package, by name, one for the core and one for the total."""
    sums = {CORE: core(found), TOTAL: _sum(found.values())}
    shown = [*sorted(found.items()), *sums.items()]
    return [f"{name} {branches.figure()}" for name, branches in shown]


def _sum(several: Iterable[Branches]) -> Branches:
    total = Branches()
    for branches in several:
        total = total.plus(branches)
    return total


def main(arguments: Sequence[str]) -> int:
    """Print the figures of a report; return the exit code."""
    parser = argparse.ArgumentParser(prog="coverage_by_package.py")
    parser.add_argument("report", type=Path, metavar="REPORT.json")
    parser.add_argument(
        "--fail-under", type=float, default=0.0, metavar="PERCENT", help="of the core's branches"
    )
    options = parser.parse_args(arguments)
    found = by_package(json.loads(options.report.read_text(encoding="utf-8")))
    print("\n".join(lines(found)))
    measured = core(found)
    if not measured.all and options.fail_under:
        print(f"no branch of {PACKAGES[0]} was measured", file=sys.stderr)
        return 1
    if measured.percent() < options.fail_under:
        text = (
            f"{CORE} {measured.percent():.2f} %: less than {options.fail_under:g} % is not enough"
        )
        print(f"{text}; add tests for branches that none takes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
