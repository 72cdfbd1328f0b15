"""Print the branch coverage of each package, from the report that ``coverage json`` writes.

``make coverage`` calls it with the report's path. A line is a package and its figure, the share
of the branches that the tests took; the last line is the total. A package's figure covers its
modules and not its sub-packages, which have lines of their own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

PACKAGES = (
    "mlflow_wandb_plugin",
    "mlflow_wandb_flyte",
    "mlflow_wandb_ray",
    "mlflow_wandb_torchtune",
)
TOTAL = "total"


class Branches(NamedTuple):
    """The number of branches, and of those that the tests took."""

    taken: int = 0
    all: int = 0

    def plus(self, other: Branches) -> Branches:
        """Return the sum of both."""
        return Branches(self.taken + other.taken, self.all + other.all)

    def figure(self) -> str:
        """Return the share in percent; code without a branch has none."""
        return f"{100 * self.taken / self.all:.1f} %" if self.all else "no branches"


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


def lines(found: Mapping[str, Branches]) -> list[str]:
    """Return a line for each package, by name, and one for the total."""
    total = Branches()
    for branches in found.values():
        total = total.plus(branches)
    return [f"{name} {branches.figure()}" for name, branches in sorted(found.items())] + [
        f"{TOTAL} {total.figure()}"
    ]


def main(arguments: list[str]) -> int:
    """Print the figures of the report that the only argument names; return the exit code."""
    if len(arguments) != 1:
        print("usage: coverage_by_package.py REPORT.json", file=sys.stderr)
        return 2
    report = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    print("\n".join(lines(by_package(report))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
