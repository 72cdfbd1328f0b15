"""Shift `time.time` of every Python process that has this folder in its PYTHONPATH.

The file that FAULTS_CLOCK names holds the shift in seconds; it is read at each call.
`time.monotonic`, `datetime.now` and processes that are not Python's, such as wandb-core, keep the
machine's clock.
"""

import os
import time

_FILE = os.environ.get("FAULTS_CLOCK", "")
_machine_time = time.time
_machine_time_ns = time.time_ns


def _shift() -> float:
    try:
        with open(_FILE) as file:
            return float(file.read() or 0)
    except (OSError, ValueError):
        return 0.0


def _shifted_time() -> float:
    return _machine_time() + _shift()


def _shifted_time_ns() -> int:
    return _machine_time_ns() + int(_shift() * 1e9)


if _FILE:
    time.time = _shifted_time
    time.time_ns = _shifted_time_ns
