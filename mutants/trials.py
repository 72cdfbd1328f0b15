"""Run tests on a changed copy of the package."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path

from mutants.changes import Change
from tests.support.processes import end_all_of

_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "node_modules")
PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider")


class Outcome(Enum):
    """What the tests made of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    TIMED_OUT = "timed out"


class Copy:
    """A copy of a checkout, in which one change is tried at a time.

    The package is imported from the copy, also where another is installed: the copy is the working
    directory and the first entry of PYTHONPATH.
    """

    def __init__(self, checkout: Path, folder: Path) -> None:
        self._root = folder / "checkout"
        self._temporary = folder / "tmp"
        shutil.copytree(checkout, self._root, ignore=_NOT_COPIED, symlinks=True)

    def try_change(
        self, path: str, change: Change, tests: tuple[str, ...], limit: float
    ) -> Outcome:
        """Run tests with a change of the module at ``path``; it is undone afterwards.

        Args:
            limit: s after which the tests are ended.
        """
        file = self._root / path
        source = file.read_text(encoding="utf-8")
        try:
            self._write(file, change.apply(source))
            return self._run(tests, limit)
        finally:
            self._write(file, source)

    def seconds_unchanged(self, tests: tuple[str, ...], limit: float) -> float:
        """Run tests without a change, and return how long they took.

        Raises:
            RuntimeError: they fail, so that no mutant can be judged by them.
        """
        begin = time.monotonic()
        outcome = self._run(tests, limit)
        if outcome is not Outcome.SURVIVED:
            raise RuntimeError(f"without a change, these tests {outcome.value}: {' '.join(tests)}")
        return time.monotonic() - begin

    def _write(self, file: Path, source: str) -> None:
        """Python takes compiled code for current if time (s) and size of its source are the same,
        which they may be for two changes: none is left."""
        file.write_text(source, encoding="utf-8")
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()

    def _run(self, tests: tuple[str, ...], limit: float) -> Outcome:
        shutil.rmtree(self._temporary, ignore_errors=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(self._root),
            # A failure is enough: no smaller example is looked for.
            "HYPOTHESIS_PROFILE": "first",
        }
        pytest = subprocess.Popen(
            [*PYTEST, f"--basetemp={self._temporary}", *tests],
            cwd=self._root,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = pytest.wait(limit)
        except subprocess.TimeoutExpired:
            return Outcome.TIMED_OUT
        finally:
            if pytest.poll() is None:
                os.killpg(pytest.pid, signal.SIGKILL)
                pytest.wait()
            end_all_of(self._temporary)
        return Outcome.KILLED if code else Outcome.SURVIVED
