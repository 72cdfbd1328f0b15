"""``make test``: every check, one after another, and a last line that counts them.

The line counts each of pytest's tests and each other check as one. All checks run, also when an
earlier one failed. Tests that start a Ray cluster are left to ``make test-ray``,
those of launchers and frameworks to ``make test-frameworks``.

``make check`` is what of this takes less than a minute: ``check.py --quick``. It builds the pages,
which the tests do otherwise.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

QUICK_CHECKS = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("mypy",),
    ("lint-imports",),
    ("codespell",),
)
WHEEL = ("python", "scripts/check_wheel.py")
PAGES = ("mkdocs", "build", "--strict", "--quiet")
QUICK = "--quick"
PYTEST = (
    "pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", "--durations=25",
    "-o", "junit_family=xunit2", "-m", "not browser and not ray_cluster and not frameworks",
)  # fmt: skip


def run(command: tuple[str, ...], tools: Path = BIN) -> bool:
    """Run a tool of an environment, ours unless another is named, in the checkout."""
    print(f"\n$ {' '.join(command)}", flush=True)
    return not subprocess.run([tools / command[0], *command[1:]], cwd=ROOT).returncode


def pytest(*arguments: str, tools: Path = BIN) -> Counter[str]:
    """Run the tests; how many passed, failed and were skipped."""
    with tempfile.TemporaryDirectory(prefix="mlflow-wandb-check-") as folder:
        report = Path(folder) / "report.xml"
        succeeded = run((*PYTEST, f"--junitxml={report}", *arguments), tools)
        counts = counted(report) if report.is_file() else Counter[str]()
    if not succeeded and not counts["failed"]:
        # Nothing was collected, a crash, a wrong option: no test can say so.
        counts["failed"] = 1
    return counts


def counted(report: Path) -> Counter[str]:
    """Tests by outcome in a JUnit report."""
    counts: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        told = {child.tag for child in case}
        if told & {"failure", "error"}:
            counts["failed"] += 1
        else:
            counts["skipped" if "skipped" in told else "passed"] += 1
    return counts


def line(counts: Counter[str]) -> str:
    text = f"{counts['passed']} passed, {counts['failed']} failed"
    return text + (f", {counts['skipped']} skipped" if counts["skipped"] else "")


def main(arguments: list[str]) -> int:
    quick = QUICK in arguments
    checks = (*QUICK_CHECKS, PAGES if quick else WHEEL)
    counts: Counter[str] = Counter("passed" if run(check) else "failed" for check in checks)
    if not quick:
        counts += pytest(*arguments)
    print(line(counts), flush=True)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
